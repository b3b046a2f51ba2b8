"""Tools for authors of solvers: tests of an implementation, error measures, and a problem with an exact score."""

from parareal_diffusers.testing._check_solver import check_solver as check_solver
from parareal_diffusers.testing._errors import relative_error as relative_error
from parareal_diffusers.testing._errors import relative_errors as relative_errors
from parareal_diffusers.testing._loop import scheduler_loop as scheduler_loop
from parareal_diffusers.testing._mixture import GaussianMixture as GaussianMixture
