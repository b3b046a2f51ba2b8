"""Parallel-in-time sampling of diffusion models: the samplers of diffusers on the Parareal engine."""

import warnings
from typing import TYPE_CHECKING

from parareal_diffusers._grid.grid import Grid as Grid
from parareal_diffusers._grid.grid import Levels as Levels
from parareal_diffusers._grid.sigmas import Sigmas as Sigmas
from parareal_diffusers._noise import Linear as Linear
from parareal_diffusers._pipelines.handle import Handle as Handle
from parareal_diffusers._pipelines.handle import parallelize as parallelize
from parareal_diffusers._sampling.denoiser import Guidance as Guidance
from parareal_diffusers._sampling.denoiser import denoised as denoised
from parareal_diffusers._sampling.plan import plan as plan
from parareal_diffusers._sampling.presets import picard as picard
from parareal_diffusers._sampling.presets import srds as srds
from parareal_diffusers._sampling.sample import sample as sample
from parareal_diffusers._sampling.spacing import boundaries as boundaries
from parareal_diffusers._schedulers.fallback import AnyScheduler as AnyScheduler
from parareal_diffusers._solvers.ancestral.ddim import DDIM as DDIM
from parareal_diffusers._solvers.ancestral.ddpm import DDPM as DDPM
from parareal_diffusers._solvers.dpm.multistep import DPMSolver as DPMSolver
from parareal_diffusers._solvers.dpm.singlestep import DPMSolverSinglestep as DPMSolverSinglestep
from parareal_diffusers._solvers.identity import IdentitySolver as IdentitySolver
from parareal_diffusers._solvers.multistep.deis import DEIS as DEIS
from parareal_diffusers._solvers.multistep.extrapolated import Extrapolated as Extrapolated
from parareal_diffusers._solvers.multistep.lms import LMS as LMS
from parareal_diffusers._solvers.multistep.unipc import UniPC as UniPC
from parareal_diffusers._solvers.sigma.churn import Churn as Churn
from parareal_diffusers._solvers.sigma.dpm_2s import DPM2S as DPM2S
from parareal_diffusers._solvers.sigma.dpm_fast import DPMFast as DPMFast
from parareal_diffusers._solvers.sigma.euler import Euler as Euler
from parareal_diffusers._solvers.sigma.heun import Heun as Heun
from parareal_diffusers._solvers.sigma.kdpm2 import KDPM2 as KDPM2
from parareal_diffusers._solvers.solver import Shift as Shift
from parareal_diffusers._solvers.solver import Solver as Solver
from parareal_diffusers._solvers.step_interval import Prediction as Prediction
from parareal_diffusers._solvers.step_interval import StepInterval as StepInterval

_RENAMED_CLASSES = {"Leg": StepInterval, "Identity": IdentitySolver}

if not TYPE_CHECKING:  # type checkers would accept any attribute of a module that has a __getattr__

    def __getattr__(name: str) -> type:
        """Return a renamed class by its old name, with a `DeprecationWarning` that names the new one."""
        if name not in _RENAMED_CLASSES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        new = _RENAMED_CLASSES[name]
        warnings.warn(f"{__name__}.{name} was renamed: use {new.__name__}", DeprecationWarning, stacklevel=2)
        return new
