"""ParaDiGMS: Picard iteration in a sliding window."""

from collections.abc import Sequence

from torch import Tensor

from parareal_diffusers.bench.baselines.window import Window, posterior_deviations, slide
from parareal_diffusers.bench.cases.problems import Parts
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target


def paradigms(parts: Parts, target: Target, stop: Stop, window: int) -> Sequence[Iterate]:
    """Run ParaDiGMS (Shih et al. 2023, arXiv 2305.16317, Algorithm 1).

    Every state in the window becomes the state at its front plus the changes that one step from each state in between
    makes. The paper's own rule holds the squared change per dimension, over the variance of the noise that DDPM would
    add there, against the squared tolerance.

    Args:
        parts: what to sample, of one sample.
        target: its sequential final state.
        stop: when states leave the window.
        window: steps in it, at most; more than there are for all.
    """
    deviations = posterior_deviations(parts)

    def update(seen: Window, done: int) -> Tensor:
        return seen.x[:1] + (seen.stepped - seen.x[:-1]).cumsum(0)

    def settled(seen: Window) -> Tensor:
        change = (update(seen, 0) - seen.x[1:]).flatten(1)
        rms = change.norm(dim=1) / change.shape[1] ** 0.5
        return rms <= stop.tolerance * deviations[seen.front : seen.end]

    return list(slide(parts, target, window, update, stop, settled))
