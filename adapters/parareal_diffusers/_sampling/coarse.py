"""Coarse solvers by name."""

from dataclasses import replace
from typing import Any

from parareal.driver import one_of
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._schedulers.fallback import AnyScheduler
from parareal_diffusers._schedulers.native import check_known, solver_of
from parareal_diffusers._solvers.ancestral.ddim import DDIM
from parareal_diffusers._solvers.ancestral.ddpm import DDPM
from parareal_diffusers._solvers.dpm.multistep import DPMSolver
from parareal_diffusers._solvers.identity import IdentitySolver
from parareal_diffusers._solvers.multistep.extrapolated import Extrapolated, has_velocity
from parareal_diffusers._solvers.sigma.euler import Euler
from parareal_diffusers._solvers.solver import Solver

COARSE: dict[str, Solver] = {
    "ddim": DDIM(),
    "ddpm": DDPM(),
    "dpmpp_2m": DPMSolver(order=2),
    "dpmpp_3m": DPMSolver(order=3),
    "dpmpp_2m_sde": DPMSolver(order=2, algorithm_type="sde-dpmsolver++"),
    "extrapolated": Extrapolated(),
    "identity": IdentitySolver(),
}


FEW_STEPS = 64
"""up to which steps of first order are further from the ODE than coarse jumps of second order are from them"""


def coarse_solver(coarse: Any, fine: Solver, grid: Grid) -> Solver:
    """Return a coarse solver, given by name, as a solver object or as a diffusers scheduler, for a grid."""
    if isinstance(coarse, str):
        one_of("coarse", coarse, ["auto", "same", *COARSE])
        found = automatic(fine, grid) if coarse == "auto" else fine if coarse == "same" else COARSE[coarse]
    elif isinstance(coarse, Solver):
        found = coarse
    else:
        check_known(coarse)
        found = solver_of(coarse)
    if isinstance(found, AnyScheduler):
        name = type(found.scheduler).__name__
        raise TypeError(f"{name} has no native solver, which a coarse solver must be: use coarse='auto'")
    return found


def embedded_solver(coarse: Solver) -> Solver | None:
    """Return a solver of another order that makes do with a coarse solver's evaluations; None if none is known."""
    match coarse:
        case (
            DPMSolver(order=1, algorithm_type="dpmsolver" | "dpmsolver++")
            | DDIM(eta=0.0)
            | Euler(ancestral=False, churn=None)
        ):
            return COARSE["dpmpp_2m"]
        case DPMSolver(algorithm_type="dpmsolver" | "dpmsolver++", order=order):
            return COARSE["ddim"] if order == 2 else COARSE["dpmpp_2m"]
        case Extrapolated(order=order):
            return replace(coarse, order=3 - order)
        case DDPM() | DPMSolver(order=1):
            return COARSE["dpmpp_2m_sde"]
        case DPMSolver():
            return replace(coarse, order=1)
        case _:
            return None


def of_first_order(fine: Solver) -> bool:
    """Return whether a solver makes the steps that `Extrapolated` knows."""
    return isinstance(fine, DDIM | Euler) or (isinstance(fine, DPMSolver) and fine.order == 1)


def automatic(fine: Solver, grid: Grid) -> Solver:
    """Return the coarse solver that converged fastest on the shipped network (docs/results/solvers.md)."""
    if not fine.stochastic:
        far = grid.steps <= FEW_STEPS or not grid.chained  # from the ODE that others approximate
        return COARSE["extrapolated" if far and of_first_order(fine) and has_velocity(grid) else "dpmpp_2m"]
    if isinstance(fine, AnyScheduler) and not grid.variance_preserving:
        exploding = bool((grid.start.alpha == 1).all())
        return Euler(ancestral=True) if exploding else DPMSolver(order=1, algorithm_type="sde-dpmsolver++")
    return COARSE["ddpm"] if grid.variance_preserving and not isinstance(fine, DDIM) else fine
