"""torchdiffeq's fixed-grid solvers, parallel in time."""

from parareal_torchdiffeq._odeint import odeint as odeint
