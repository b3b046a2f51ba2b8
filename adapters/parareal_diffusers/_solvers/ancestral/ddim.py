"""DDIM, deterministic or with added noise."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal.driver import Memory
from parareal_diffusers._grid.grid import Grid, Levels
from parareal_diffusers._noise import Linear, posterior_variance
from parareal_diffusers._solvers.solver import Solver, StepGenerator, check_variance_preserving
from parareal_diffusers._solvers.step_interval import StepInterval


@final
@dataclass(frozen=True)
class DDIM(Solver):
    """Denoising diffusion implicit models (Song, Meng, Ermon 2021, arXiv 2010.02502, eq. 12 and 16).

    A step from node to node is `diffusers.DDIMScheduler.step`, with the same order of operations. A jump over several
    nodes goes from the start level of its first step to the stop level of its last one.

    Args:
        scheduler: a diffusers scheduler that defines the nodes; not needed for a coarse solver.
        eta: weight of the added noise, from 0 for none to 1 for that of DDPM.
        use_clipped_model_output: compute the noise from the clipped clean sample, as in GLIDE.

    Raises:
        ValueError: for an eta outside [0, 1].
    """

    eta: float = 0.0
    use_clipped_model_output: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be between 0 (no noise added) and 1 (the noise of DDPM), but was {self.eta}")

    @property
    def stochastic(self) -> bool:
        """Whether eta is positive."""
        return self.eta > 0

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by eq. 12; one evaluation."""
        s, t = interval.s, interval.t
        clean, noise, _ = yield from interval.predict(x)
        if self.use_clipped_model_output:
            noise = (x - s.alpha * clean) / s.sigma
        if not self.eta:
            return t.alpha * clean + t.sigma * noise, memory
        std = interval.std(self._std(s, t))
        # The variance that is left for the predicted noise. It can be negative in jumps only, where the noises of the
        # fine solver's steps may add up to more than the level's; `check_fine` refuses such single steps.
        remainder = (1 - t.alpha_cumprod - std**2).clamp(min=0)
        x = t.alpha * clean + remainder**0.5 * noise
        return x + interval.noise(std), memory

    def linear(self, interval: StepInterval) -> Linear:
        """Return the steps as linear maps, with the predicted clean sample held fixed."""
        std = self._std(interval.s, interval.t)
        return Linear((1 - interval.t.alpha_cumprod - std**2) ** 0.5 / interval.s.sigma, std)

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` for noise on a schedule that is not variance preserving."""
        if self.eta:
            check_variance_preserving(self, grid)

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` if rounding makes the radicand of a step's coefficient negative."""
        super().check_fine(grid)
        std = self._std(grid.start, grid.stop)
        # Single steps must reproduce the scheduler, so the clamp of `step` would hide that its loop returns NaN.
        bad = torch.nonzero(1 - grid.stop.alpha_cumprod - std**2 < 0).flatten().tolist()
        if bad:
            raise ValueError(
                f"step {bad[0]} of {grid.steps} with eta={self.eta} takes the root of a number that rounding has made "
                "negative: the scheduler's own loop returns NaN here (docs/reference/upstream.md); use a smaller eta, "
                "or a schedule that does not start at zero signal"
            )

    def _std(self, s: Levels, t: Levels) -> Tensor:
        """Return the standard deviation of the added noise (eq. 16)."""
        return self.eta * posterior_variance(s, t) ** 0.5
