"""Coarse solvers by name."""

from typing import Any

from parareal._checks import one_of
from parareal_diffusers._ddim import DDIM
from parareal_diffusers._ddpm import DDPM
from parareal_diffusers._dpm_multistep import DPMSolver
from parareal_diffusers._grid import Grid
from parareal_diffusers._identity import Identity
from parareal_diffusers._schedulers import check_known, solver_of
from parareal_diffusers._solver import Solver

COARSE: dict[str, Solver] = {
    "ddim": DDIM(),
    "ddpm": DDPM(),
    "dpmpp_2m": DPMSolver(order=2),
    "dpmpp_3m": DPMSolver(order=3),
    "dpmpp_2m_sde": DPMSolver(order=2, algorithm_type="sde-dpmsolver++"),
    "identity": Identity(),
}


def coarse_solver(coarse: Any, fine: Solver, grid: Grid) -> Solver:
    """Return a coarse solver, given by name, as a solver object or as a diffusers scheduler, for a grid."""
    if isinstance(coarse, Solver):
        return coarse
    if not isinstance(coarse, str):
        check_known(coarse)
        return solver_of(coarse)
    one_of("coarse", coarse, ["auto", "same", *COARSE])
    if coarse == "auto":
        return automatic(fine, grid)
    return fine if coarse == "same" else COARSE[coarse]


def automatic(fine: Solver, grid: Grid) -> Solver:
    """Return the coarse solver that converged fastest on the shipped network (docs/solvers.md)."""
    if not fine.stochastic:
        return COARSE["dpmpp_2m"]
    return COARSE["ddpm"] if grid.variance_preserving and not isinstance(fine, DDIM) else fine
