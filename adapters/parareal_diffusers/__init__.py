"""Parallel-in-time sampling of diffusion models: the samplers of diffusers on the Parareal engine."""

from parareal_diffusers._any_scheduler import AnyScheduler as AnyScheduler
from parareal_diffusers._ddim import DDIM as DDIM
from parareal_diffusers._ddpm import DDPM as DDPM
from parareal_diffusers._deis import DEIS as DEIS
from parareal_diffusers._denoiser import Guidance as Guidance
from parareal_diffusers._denoiser import denoised as denoised
from parareal_diffusers._dpm_2s import DPM2S as DPM2S
from parareal_diffusers._dpm_multistep import DPMSolver as DPMSolver
from parareal_diffusers._dpm_singlestep import DPMSolverSinglestep as DPMSolverSinglestep
from parareal_diffusers._euler import Euler as Euler
from parareal_diffusers._grid import Grid as Grid
from parareal_diffusers._grid import Levels as Levels
from parareal_diffusers._heun import Heun as Heun
from parareal_diffusers._identity import Identity as Identity
from parareal_diffusers._kdpm2 import KDPM2 as KDPM2
from parareal_diffusers._leg import Leg as Leg
from parareal_diffusers._leg import Prediction as Prediction
from parareal_diffusers._lms import LMS as LMS
from parareal_diffusers._noise import Linear as Linear
from parareal_diffusers._presets import picard as picard
from parareal_diffusers._presets import srds as srds
from parareal_diffusers._sample import sample as sample
from parareal_diffusers._sigmas import Sigmas as Sigmas
from parareal_diffusers._solver import Shift as Shift
from parareal_diffusers._solver import Solver as Solver
from parareal_diffusers._unipc import UniPC as UniPC
