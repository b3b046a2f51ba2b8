"""Parallel-in-time sampling of diffusion models: the samplers of diffusers on the Parareal engine."""

from parareal_diffusers._ddim import DDIM as DDIM
from parareal_diffusers._denoiser import Guidance as Guidance
from parareal_diffusers._dpmpp_2m import DPMSolverPP2M as DPMSolverPP2M
from parareal_diffusers._grid import Grid as Grid
from parareal_diffusers._identity import Identity as Identity
from parareal_diffusers._presets import picard as picard
from parareal_diffusers._presets import srds as srds
from parareal_diffusers._sample import sample as sample
from parareal_diffusers._solvers import Solver as Solver
