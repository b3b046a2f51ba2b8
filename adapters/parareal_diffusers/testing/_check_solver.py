"""Six experiments on a solver, for its author: `check_solver`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

import parareal
from parareal_diffusers._grid.grid import prediction_type_of
from parareal_diffusers._grid.sigmas import Sigmas
from parareal_diffusers._sampling.denoiser import denoised
from parareal_diffusers._sampling.sample import sample
from parareal_diffusers._schedulers.native import choose_solver, copy_with_timesteps
from parareal_diffusers._solvers.ancestral.ddim import DDIM
from parareal_diffusers._solvers.solver import Solver
from parareal_diffusers.testing._errors import relative_error
from parareal_diffusers.testing._loop import scheduler_loop
from parareal_diffusers.testing._mixture import GaussianMixture

Model = Callable[[Tensor, Tensor], Tensor]
Reference = Callable[[Model, Tensor, Any, Any], Tensor]


def check_solver(
    solver: Any,
    *,
    reference: Reference | None = None,
    model: Model | None = None,
    steps: Sequence[int] = (1, 2, 7, 25),
    shape: tuple[int, ...] = (1, 4, 4),
    dtype: torch.dtype = torch.float32,
    bound: float | None = None,
) -> parareal.Report:
    """Test an implementation of a solver by six experiments; it takes about a second.

    The experiments run on small samples. Their names stand in the report:

    - `sequential`: one slice gives the result of the reference.
    - `finish`: a run to the end, unbatched, gives the same bits, whatever the slices and levels.
    - `rows`: the result of a sample does not depend on the other samples and rows of its batch.
    - `jumps`: as a coarse solver it arrives at the right noise level.
    - `memory`: the memory crosses slice boundaries such that iterations converge.
    - `noise`: the same generator gives the same sample, whatever the slices, and is left where the reference leaves it.

    Args:
        solver: a solver with a scheduler, as in `DDIM(scheduler)`, or with `Sigmas`; or a diffusers scheduler.
        reference: the sequential loop, called as `reference(model, latents, steps, generator)`; by default the loop
            over the unmodified scheduler. A solver on `Sigmas` needs a reference, which is called as
            `reference(model, latents, sigmas, generator)` with a tensor of N + 1 levels, like k-diffusion's samplers.
        model: called as `model(x, t)`; for a solver on `Sigmas` as `model(x, sigma)`, and returns the clean sample. By
            default the exact score of a Gaussian mixture (`GaussianMixture`).
        steps: numbers of steps to compare with the reference; for `Sigmas`, that many steps over the same range.
        shape: shape of a sample.
        dtype: dtype of the states, float32 or float64.
        bound: largest relative error; by default 1e-5, or 1e-10 for float64.

    Returns:
        A `parareal.Report`: `.ok` says whether all experiments passed; printed, it has one line per experiment.

    Raises:
        TypeError: for a value that is no solver and no scheduler.
        ValueError: if the solver has no scheduler, or a reference or a model is needed.
    """
    fine = solver if isinstance(solver, Solver) else choose_solver(copy_with_timesteps(solver, max(steps)))
    if fine.scheduler is None:
        name = type(fine).__name__
        raise ValueError(f"{name} needs the nodes to step over: {name}(scheduler) takes them from a scheduler")
    if reference is None:
        reference = _scheduler_reference(fine, max(steps))
    model = _mixture_model(fine, shape) if model is None else model
    bound = (1e-10 if dtype is torch.float64 else 1e-5) if bound is None else bound
    case = _SolverCase(solver, reference, model, tuple(steps), shape, dtype, bound, fine.stochastic)
    experiments = (case.sequential, case.finish, case.rows, case.jumps, case.memory, case.noise)
    return parareal.Report(tuple(_run_experiment(experiment) for experiment in experiments))


def _scheduler(solver: Any) -> Any:
    """Return the scheduler, or the `Sigmas`, whose nodes a solver steps over."""
    return solver.scheduler if isinstance(solver, Solver) else solver


def _run_experiment(experiment: Callable[[], str]) -> parareal.Finding:
    """Return the finding of an experiment, which passes if it returns an empty complaint."""
    try:
        complaint = experiment()
    except Exception as error:  # an error of the author's code is a finding, and the other experiments go on
        complaint = f"{type(error).__name__}: {error}"
    return parareal.Finding(experiment.__name__, not complaint, complaint or "passed")


def _mixture_model(solver: Solver, shape: tuple[int, ...]) -> Model:
    """Return an exact model with the prediction type of the solver's scheduler."""
    if solver.wants_variance:
        raise ValueError("check_solver has no model that predicts variances: pass one as model=")
    if isinstance(solver.scheduler, Sigmas):
        return GaussianMixture.random(components=6, shape=shape).denoise
    kind = prediction_type_of(solver.scheduler, "flow_prediction")
    return GaussianMixture.random(components=6, shape=shape).model(solver.scheduler, kind)


def _scheduler_reference(solver: Solver, steps: int) -> Reference:
    """Return the loop over a solver's scheduler, if the solver makes the scheduler's steps."""
    if isinstance(solver.scheduler, Sigmas):
        raise ValueError(
            f"check_solver has no reference for {type(solver).__name__} on Sigmas: give a sequential loop as "
            "reference=, called as reference(model, latents, sigmas, generator)"
        )
    native = choose_solver(copy_with_timesteps(solver.scheduler, steps))
    options: dict[str, Any] = {}
    # DDIM's scheduler takes these two as arguments of its step, so they are no part of its config.
    if isinstance(native, DDIM) and isinstance(solver, DDIM):
        options = {"eta": solver.eta, "use_clipped_model_output": solver.use_clipped_model_output}
        native = replace(native, **options)
    # Solvers are dataclasses: equal ones make the same steps.
    if replace(native, scheduler=None) != replace(solver, scheduler=None):
        raise ValueError(
            f"check_solver has no reference for {type(solver).__name__}: its steps are not those of a "
            f"{type(solver.scheduler).__name__} with its options. Give a sequential loop as reference=, called as "
            "reference(model, latents, steps, generator)"
        )

    def loop(model: Model, latents: Tensor, steps: int, generator: Any) -> Tensor:
        return scheduler_loop(model, latents, solver.scheduler, steps, generator, **options)

    return loop


@final
@dataclass(frozen=True)
class _SolverCase:
    """A solver with its reference and model, and the experiments: each returns a complaint, or an empty text."""

    solver: Any
    reference: Reference
    model: Model
    steps: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    bound: float
    stochastic: bool

    def latents(self, samples: int = 2) -> Tensor:
        """Return noise to start from."""
        noise = torch.randn(samples, *self.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return (noise * float(getattr(_scheduler(self.solver), "init_noise_sigma", 1.0))).to(self.dtype)

    def run(self, steps: int, latents: Tensor | None = None, generator: Any = None, **options: Any) -> Tensor:
        """Return the solver's samples; by default it runs to the end, with a new generator of seed 1."""
        latents = self.latents() if latents is None else latents
        generator = _make_generator(1) if generator is None else generator
        options = {"tolerance": 0.0, "generator": generator} | options
        if self.sigmas is None:
            return sample(self.model, latents, self.solver, num_inference_steps=steps, **options).final_state
        solver = replace(self.solver, scheduler=self.sigmas.like(steps))
        return sample(denoised(self.model), latents, solver, **options).final_state

    def run_reference(self, steps: int, generator: Any) -> Tensor:
        """Return the reference's samples."""
        grid: Any = steps if self.sigmas is None else self.sigmas.like(steps).values
        return self.reference(self.model, self.latents(), grid, generator)

    @property
    def sigmas(self) -> Sigmas | None:
        """The levels of a solver on a bare denoiser; None for a solver on a scheduler's nodes."""
        scheduler = _scheduler(self.solver)
        return scheduler if isinstance(scheduler, Sigmas) else None

    def sequential(self) -> str:
        """Compare one slice with the reference, for each number of steps."""
        for steps in self.steps:
            expected = self.run_reference(steps, _make_generator(1))
            error = relative_error(self.run(steps, slices=1), expected)
            if not error <= self.bound:
                return f"with {steps} steps the result is off by {error:.1e} from the reference"
        return ""

    def finish(self) -> str:
        """Compare the bits of runs to the end with those of one slice."""
        steps = max(self.steps)
        # One row per call: batched kernels round differently, and bits are promised for unbatched execution only.
        expected = self.run(steps, slices=1, max_batch=1)
        settings: list[dict[str, Any]] = [{"slices": min(4, steps)}, {"slices": steps}, {"levels": (2, 2)}]
        for options in settings if steps >= 4 else settings[:2]:  # (2, 2) levels need four steps
            if not torch.equal(self.run(steps, max_batch=1, **options), expected):
                return f"a run to the end with {options} and max_batch=1 is not bit by bit that of one slice"
        return ""

    def rows(self) -> str:
        """Compare the samples of a batch with runs of each sample alone."""
        steps, latents = max(self.steps), self.latents(3)
        batch = self.run(steps, latents, [_make_generator(i) for i in range(3)], slices=min(4, steps))
        for i in range(3):
            alone = self.run(steps, latents[i : i + 1], _make_generator(i), slices=min(4, steps))
            if not relative_error(alone, batch[i : i + 1]) <= self.bound:
                return f"sample {i} has another result in a batch than alone: rows must not influence each other"
        return ""

    def jumps(self) -> str:
        """Compare coarse jumps over two nodes with single steps.

        The model is a single Gaussian, so no jump can end near another mode, and a large error means a wrong level.
        """
        scheduler = _scheduler(self.solver)
        mixture = GaussianMixture(torch.full((1, *self.shape), 0.3), deviation=0.2)  # clipping to [-1, 1] has no effect
        takes_sigma = self.sigmas is not None
        kind = "" if takes_sigma else prediction_type_of(scheduler, "flow_prediction")
        model = mixture.denoise if takes_sigma else mixture.model(scheduler, kind)
        case = replace(self, model=model)
        prediction = case.run(48, criterion=parareal.Iterations(0), slices=24, coarse="same")
        error = relative_error(prediction, case.run(48, slices=1))
        # The native solvers have at most 0.27 here; DDIM with steps that end one node early has 0.9.
        if error < 0.3:
            return ""
        return f"jumps over two nodes are off by {error:.1e}: step from level interval.s to level interval.t"

    def memory(self) -> str:
        """Compare the errors of the coarse prediction and of the third iteration.

        A multistep method whose memory is lost or uncorrected at slice boundaries converges slowly, or to another
        result.
        """
        steps, errors = max(24, *self.steps), []
        expected = self.run(steps, slices=1)
        for count in (0, 3):
            result = self.run(steps, slices=8, criterion=parareal.Iterations(count))
            errors.append(relative_error(result, expected))
        # The native solvers reduce the error to at most 0.015 of the first.
        if not errors[1] <= max(0.1 * errors[0], self.bound):
            return (
                f"three iterations reduce the error only from {errors[0]:.1e} to {errors[1]:.1e}: a multistep method "
                "must correct its memory at slice boundaries, in its method correct"
            )
        return ""

    def noise(self) -> str:
        """Compare runs with different slices, and the states in which they leave their generators."""
        steps, generators = max(self.steps), [_make_generator(1) for _ in range(3)]
        self.run_reference(steps, generators[0])
        few = self.run(steps, generator=generators[1], slices=min(2, steps))
        many = self.run(steps, generator=generators[2], slices=min(5, steps))
        if not relative_error(many, few) <= self.bound:
            return "the result depends on the slices: add noise by interval.noise(scale) only"
        if any(not torch.equal(g.get_state(), generators[0].get_state()) for g in generators[1:]):
            return "the generator is not left where the reference leaves it: correct draws(grid), the steps with noise"
        other = self.run(steps, generator=_make_generator(2), slices=min(2, steps))
        if not self.stochastic and not torch.equal(other, few):
            return "the result depends on the generator, but stochastic is False"
        return ""


def _make_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
