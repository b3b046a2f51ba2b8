"""Parallel-in-time versions of torchdiffeq's fixed-grid ODE solvers."""

from parareal_torchdiffeq._odeint import odeint as odeint
