"""Parallel-in-time sampling of diffusion models: the samplers of diffusers on the Parareal engine."""

from parareal_diffusers._ddim import DDIM as DDIM
from parareal_diffusers._ddpm import DDPM as DDPM
from parareal_diffusers._denoiser import Guidance as Guidance
from parareal_diffusers._denoiser import denoised as denoised
from parareal_diffusers._dpm_multistep import DPMSolver as DPMSolver
from parareal_diffusers._dpm_singlestep import DPMSolverSinglestep as DPMSolverSinglestep
from parareal_diffusers._euler import Euler as Euler
from parareal_diffusers._grid import Grid as Grid
from parareal_diffusers._grid import Levels as Levels
from parareal_diffusers._identity import Identity as Identity
from parareal_diffusers._leg import Leg as Leg
from parareal_diffusers._leg import Prediction as Prediction
from parareal_diffusers._noise import Linear as Linear
from parareal_diffusers._parallelize import Handle as Handle
from parareal_diffusers._parallelize import parallelize as parallelize
from parareal_diffusers._presets import picard as picard
from parareal_diffusers._presets import srds as srds
from parareal_diffusers._sample import sample as sample
from parareal_diffusers._solver import Shift as Shift
from parareal_diffusers._solver import Solver as Solver
