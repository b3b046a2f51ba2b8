"""Choice of the coarse solver, and of the embedded solver that estimates its errors."""

from dataclasses import replace
from typing import Any

from parareal.driver import one_of
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._schedulers.fallback import AnyScheduler
from parareal_diffusers._schedulers.native import check_supported_scheduler, choose_solver
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
"""the coarse solvers that have a name"""

FEW_STEPS = 64
"""up to this number of steps, first-order fine steps have a larger discretisation error than second-order coarse
jumps"""


def resolve_coarse_solver(coarse: Any, fine: Solver, grid: Grid) -> Solver:
    """Return the coarse solver for a fine solver on its grid.

    Args:
        coarse: a name of `COARSE`, `"auto"`, `"same"`, a solver object, or a diffusers scheduler.
        fine: the fine solver.
        grid: the grid of the fine solver.

    Raises:
        ValueError: for an unknown name, or an unsupported scheduler.
        TypeError: for a solver without a native form, which cannot jump over many nodes.
    """
    if isinstance(coarse, str):
        one_of("coarse", coarse, ["auto", "same", *COARSE])
        solver = default_coarse_solver(fine, grid) if coarse == "auto" else fine if coarse == "same" else COARSE[coarse]
    elif isinstance(coarse, Solver):
        solver = coarse
    else:
        check_supported_scheduler(coarse)
        solver = choose_solver(coarse)
    if isinstance(solver, AnyScheduler):
        name = type(solver.scheduler).__name__
        raise TypeError(f"coarse: {name} has no native solver, which a coarse solver must be: use coarse='auto'")
    return solver


def choose_embedded_solver(coarse: Solver) -> Solver | None:
    """Return a solver of another order that reuses the coarse solver's evaluations and needs no others.

    None if no such solver is known.
    """
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
        # The solvers of the next two cases add noise. The embedded solver adds the same noise, so it cancels in the
        # difference.
        case DDPM() | DPMSolver(order=1):
            return COARSE["dpmpp_2m_sde"]
        case DPMSolver():
            return replace(coarse, order=1)
        case _:
            return None


def is_first_order(fine: Solver) -> bool:
    """Return whether a solver makes first-order steps, which `Extrapolated` reproduces."""
    return isinstance(fine, DDIM | Euler) or (isinstance(fine, DPMSolver) and fine.order == 1)


def default_coarse_solver(fine: Solver, grid: Grid) -> Solver:
    """Return the coarse solver that converged fastest on the shipped network (docs/results/solvers.md)."""
    if not fine.stochastic:
        # With few steps, or steps that do not meet, the fine solution is far from that of the ODE. Most solvers
        # approximate the ODE; `Extrapolated` approximates the fine steps themselves.
        far_from_ode = grid.steps <= FEW_STEPS or not grid.chained
        return COARSE["extrapolated" if far_from_ode and is_first_order(fine) and has_velocity(grid) else "dpmpp_2m"]
    # `AnyScheduler` cannot jump over several nodes. So the coarse solver is a native stochastic solver that is defined
    # for the scheduler's kind of schedule.
    if isinstance(fine, AnyScheduler) and not grid.variance_preserving:
        exploding = bool((grid.start.alpha == 1).all())
        return Euler(ancestral=True) if exploding else DPMSolver(order=1, algorithm_type="sde-dpmsolver++")
    return COARSE["ddpm"] if grid.variance_preserving and not isinstance(fine, DDIM) else fine
