"""Coarse solvers of every form, history across slices, and refusals."""

import copy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler
from parareal_diffusers import DDIM, DDPM, DPMSolver, DPMSolverSinglestep, Extrapolated, IdentitySolver, models, sample
from parareal_diffusers._sampling.coarse import COARSE, resolve_coarse_solver
from parareal_diffusers._schedulers.native import build_grid, copy_with_timesteps
from parareal_diffusers.testing import GaussianMixture, relative_error

import parareal

SCHEDULER = DDIMScheduler(clip_sample=False)
MULTI = DPMSolverMultistepScheduler()
FLOW = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
MODEL = GaussianMixture.random(5, (1, 4, 4)).model(SCHEDULER)
X = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def run(solver, count=None, steps=36, x=X, **options):
    criterion = None if count is None else parareal.Iterations(count)
    options = {"tolerance": 0, "generator": torch.Generator().manual_seed(1), "criterion": criterion} | options
    return sample(MODEL, x, solver, num_inference_steps=steps, **options)


FINE = {
    "ddim": SCHEDULER,
    "ddpm": DDPMScheduler(clip_sample=False),
    "2m": MULTI,
    "3m": DPMSolverMultistepScheduler(solver_order=3),
    "3s": DPMSolverSinglestepScheduler(solver_order=3, lower_order_final=True),
    "sde": DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
}
ODD = {
    "singlestep": DPMSolverSinglestep(order=3),
    "heun": DPMSolver(order=2, solver_type="heun"),
    "noise prediction": DPMSolver(order=2, algorithm_type="dpmsolver"),
    "eta": DDIM(eta=0.4),
    "scheduler": DPMSolverSinglestepScheduler(lower_order_final=True),
}


@pytest.mark.parametrize("coarse", [*COARSE, "auto", "same", *ODD])
@pytest.mark.parametrize("fine", FINE)
def test_any_solver_is_coarse_for_any_other(fine, coarse):
    """The coarse solver changes the speed of convergence, not the result."""
    expected = run(FINE[fine], slices=1).final_state
    solution = run(FINE[fine], slices=6, coarse=ODD.get(coarse, coarse))
    assert relative_error(solution.final_state, expected) < 1e-6
    assert solution.outcome is parareal.Outcome.EXACT


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
@pytest.mark.parametrize("fine", FINE)
def test_a_solve_stops_early_and_within_its_tolerance(fine, tolerance):
    expected = run(FINE[fine], slices=1, steps=100).final_state
    solution = run(FINE[fine], steps=100, tolerance=tolerance, slices=20)
    # The tolerance applies to an estimate; benchmarks/engine/coverage.py measures its coverage.
    assert relative_error(solution.final_state, expected) < 3 * tolerance
    assert solution.outcome is parareal.Outcome.CONVERGED
    assert solution.iterations < 10


def test_coarse_may_be_a_name_an_object_or_a_scheduler():
    for forms in (
        ("dpmpp_2m", DPMSolver(order=2), MULTI),
        ("extrapolated", Extrapolated(), "auto"),
        ("ddim", DDIM(), SCHEDULER, "same"),
        ("ddpm", DDPM(), DDPMScheduler()),
    ):
        first, *others = (run(SCHEDULER, 1, coarse=form).final_state for form in forms)
        assert all(torch.equal(first, other) for other in others)


def test_auto_selects_the_coarse_solver_by_the_fine_one():
    grid = build_grid(copy_with_timesteps(SCHEDULER, 10))
    sde = DPMSolver(algorithm_type="sde-dpmsolver++")
    assert resolve_coarse_solver("auto", DDIM(), grid) == Extrapolated()  # few steps
    assert resolve_coarse_solver("auto", DDIM(), build_grid(copy_with_timesteps(SCHEDULER, 100))) == DPMSolver(order=2)
    trailing = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    # Here steps do not start where the ones before end.
    assert resolve_coarse_solver("auto", DDIM(), build_grid(copy_with_timesteps(trailing, 150))) == Extrapolated()
    assert resolve_coarse_solver("auto", DPMSolver(order=3), grid) == DPMSolver(order=2)
    assert resolve_coarse_solver("auto", DDPM(), grid) == DDPM()
    assert resolve_coarse_solver("auto", DDIM(eta=0.5), grid) == DDIM(eta=0.5)
    assert resolve_coarse_solver("auto", sde, grid) == DDPM()
    assert resolve_coarse_solver("auto", sde, build_grid(copy_with_timesteps(FLOW, 10))) == sde
    assert resolve_coarse_solver("same", IdentitySolver(), grid) == IdentitySolver()


def test_a_coarse_scheduler_is_not_changed():
    scheduler = DPMSolverMultistepScheduler()
    before = copy.deepcopy(scheduler.__dict__["timesteps"])
    run(SCHEDULER, 1, coarse=scheduler)
    assert torch.equal(scheduler.timesteps, before)
    assert scheduler.num_inference_steps is None


@pytest.mark.parametrize("fine", ["2m", "3m", "3s"])
@pytest.mark.parametrize("options", [{"boundaries": [0, 1, 5, 8, 16, 23, 30, 36]}, {"levels": (3, 4)}])
def test_history_crosses_any_slice_boundary(fine, options):
    expected = run(FINE[fine], slices=1).final_state
    assert relative_error(run(FINE[fine], **options).final_state, expected) < 1e-6
    errors = [relative_error(run(FINE[fine], k, **options).final_state, expected) for k in (0, 2, 4)]
    assert errors[2] < errors[1] < errors[0] / 3


def test_slices_of_a_singlestep_solver_start_with_a_cycle():
    thirds = FINE["3s"]
    assert run(thirds, 0, steps=30, slices=4).boundaries == [0, 9, 15, 21, 30]
    assert run(thirds, 0, steps=30, slices=30).boundaries == list(range(31))
    assert run(SCHEDULER, 0, steps=30, slices=4).boundaries == [0, 8, 15, 22, 30]


@pytest.mark.parametrize("fine", ["2m", "3m"])
def test_multistep_solvers_converge_like_one_step_solvers(fine):
    """On the trained network the error is within 5 times DDIM's from iteration 2 on."""
    net, own = models.load("fashion-mnist")
    x = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(3))
    config = {name: own.config[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    multi = DPMSolverMultistepScheduler(solver_order=int(fine[0]), **config)
    errors = {}
    for name, solver in (("ddim", DDIM(multi)), (fine, multi)):
        iterates = []
        options = {"num_inference_steps": 50, "model_kwargs": {"class_labels": torch.tensor([5])}}
        expected = sample(net, x, solver, slices=1, **options).final_state
        sample(
            net,
            x,
            solver,
            coarse="dpmpp_2m",
            criterion=parareal.Iterations(3),
            callback=lambda r, iterates=iterates: iterates.append(r.final_state),
            **options,
        )
        errors[name] = [relative_error(iterate, expected) for iterate in iterates]
    assert all(own <= 5 * one for own, one in zip(errors[fine][2:], errors["ddim"][2:], strict=True)), errors


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("fixed_large_log", lambda: DDPMScheduler(variance_type="fixed_large_log")),
        ("no third order", lambda: DPMSolver(MULTI, order=3, algorithm_type="sde-dpmsolver")),
        ("order must be 1, 2 or 3", lambda: DPMSolver(MULTI, order=4)),
        ("algorithm_type must be one of", lambda: DPMSolver(MULTI, algorithm_type="dpmsolver+")),
        ("no singlestep form", lambda: DPMSolverSinglestep(MULTI, algorithm_type="sde-dpmsolver")),
        ("variance_type must be one of", lambda: DDPM(SCHEDULER, variance_type="fixed_smal")),
        (
            "cannot threshold",
            lambda: DPMSolverSinglestepScheduler(
                thresholding=True, algorithm_type="dpmsolver", final_sigmas_type="sigma_min"
            ),
        ),
        ("a flow's is not", lambda: DDPM(FLOW)),
        ("a flow's is not", lambda: DDIM(FLOW, eta=0.5)),
        ("prediction_type must be one of", lambda: DDIMScheduler(prediction_type="foo")),
        ("prediction_type must be one of", lambda: DDIMScheduler(prediction_type="flow_prediction")),
        ("prediction_type must be one of", lambda: DPMSolverMultistepScheduler(prediction_type="flow_prediction")),
        ("starts at zero noise", lambda: DDIMScheduler(trained_betas=np.linspace(0, 0.02, 1000))),
        ("no finite second-order coefficient", lambda: DPMSolverMultistepScheduler(timestep_spacing="leading")),
    ],
)
def test_unsupported_schedulers_and_options_are_refused_before_any_work(message, make):
    def fail_if_called(x, t):
        raise AssertionError("work was done before the input was checked")

    with pytest.raises(ValueError, match=message):
        sample(fail_if_called, X, make(), num_inference_steps=1000)


def test_an_unsupported_coarse_solver_is_refused_before_any_work():
    def fail_if_called(x, t):
        raise AssertionError("work was done before the input was checked")

    zero = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")
    for solver, coarse, message in (
        (FLOW, "ddpm", "a flow's is not"),
        (zero, DPMSolver(algorithm_type="dpmsolver"), "cannot start at zero signal"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(fail_if_called, X, solver, num_inference_steps=10, coarse=coarse)


@pytest.mark.parametrize("coarse", ["auto", "ddim", "same"])
def test_iterations_on_flows_converge(coarse):
    def velocity(x, t):
        sigma = (t.double() / 1000)[:, None, None, None]
        clean = 0.3 * x / (sigma**2 + 0.3 * (1 - sigma) ** 2).sqrt()
        return (x - clean) / sigma

    options = {"num_inference_steps": 40, "slices": 8}
    expected = sample(velocity, X, FLOW, **options | {"slices": 1}).final_state
    errors = [
        relative_error(
            sample(velocity, X, FLOW, coarse=coarse, criterion=parareal.Iterations(k), **options).final_state, expected
        )
        for k in (0, 2)
    ]
    assert errors[1] < errors[0] / 10 < 0.1


def test_ddim_on_a_flow_is_first_order_dpm_solver():
    first, second = (
        sample(MODEL, X, s, num_inference_steps=20, slices=1) for s in (DDIM(FLOW), DPMSolver(FLOW, order=1))
    )
    assert relative_error(first.final_state, second.final_state) < 1e-5


def test_a_learned_variance_needs_a_network_that_predicts_it():
    with pytest.raises(ValueError, match="second half of its channels"):
        run(DDPMScheduler(variance_type="learned_range"))
