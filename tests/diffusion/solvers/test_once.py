"""Coefficients looked up per kind of step equal those computed for every interval."""

import optree
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    LMSDiscreteScheduler,
    UniPCMultistepScheduler,
)
from parareal_diffusers import sample
from parareal_diffusers._schedulers.native import build_grid, choose_solver, copy_with_timesteps
from parareal_diffusers._solvers.coefficient_table import look_up_coefficients
from parareal_diffusers._solvers.dpm.coefficients import Coefficients
from parareal_diffusers._solvers.step_interval import StepInterval
from parareal_diffusers.testing import GaussianMixture

STEPS = 12
SCHEDULERS = {
    "ddpm": (DDPMScheduler(), None),
    "1m": (DPMSolverMultistepScheduler(solver_order=1), None),
    "2m": (DPMSolverMultistepScheduler(), 1),
    "3m": (DPMSolverMultistepScheduler(solver_order=3), 2),
    "sde": (DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), 1),
    "3s": (DPMSolverSinglestepScheduler(solver_order=3, solver_type="heun", lower_order_final=True), 2),
    "unipc": (UniPCMultistepScheduler(solver_order=3), 3),
    "deis": (DEISMultistepScheduler(solver_order=3), 2),
    "lms": (LMSDiscreteScheduler(), 3),
}


def make_interval(grid, history):
    """Return steps and jumps from every node, with all even histories, and one jump with an uneven history."""
    rows = []
    for length in (1, 3):
        for start in range(STEPS - length + 1):
            reach = [start - length * (i + 1) for i in range(history)]
            histories = [
                [n if i < count and n >= 0 else -1 for i, n in enumerate(reach)] for count in range(history + 1)
            ]
            rows += [(start, start + length, nodes) for nodes in histories]
    rows.append((8, 12, [5, 4, 0][:history]))
    start, stop, nodes = (torch.tensor(x) for x in zip(*rows, strict=True))
    state = torch.zeros(len(rows), 2, 3)
    return StepInterval(grid, start, stop, torch.zeros_like(start), state), nodes.reshape(len(rows), history)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_looked_up_coefficients_equal_computed_ones(name):
    scheduler, history = SCHEDULERS[name]
    scheduler = copy_with_timesteps(scheduler, STEPS)
    solver, grid = choose_solver(scheduler), build_grid(scheduler)
    interval, nodes = make_interval(grid, history or 0)
    arguments = [nodes] if history else [None]
    arguments += [(1 + (nodes >= 0).sum(dim=1)).clamp(max=history)] if name == "unipc" else []
    expected, coefficients = (
        solver._compute_coefficients(interval, *arguments),
        look_up_coefficients(interval, solver._compute_coefficients, *arguments),
    )
    assert optree.tree_structure(expected) == optree.tree_structure(coefficients)
    for a, b in zip(optree.tree_leaves(expected), optree.tree_leaves(coefficients), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.isfinite(), b.isfinite())
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_a_solve_makes_coefficients_for_few_kinds_of_steps(monkeypatch):
    """At most 5: fine steps and jumps, each with and without history, and the check of the grid."""
    calls, compute = [], Coefficients.of
    monkeypatch.setattr(Coefficients, "of", staticmethod(lambda *args: calls.append(1) or compute(*args)))
    scheduler = DPMSolverMultistepScheduler()
    model = GaussianMixture.random(3, (1, 2, 2)).model(scheduler)
    solution = sample(model, torch.randn(1, 1, 2, 2), scheduler, num_inference_steps=60, slices=6, tolerance=0)
    assert solution.stats.work > 120
    assert len(calls) <= 5
