"""ParaDiGMS: Picard iteration in a sliding window."""

from collections.abc import Sequence

from torch import Tensor

from parareal_diffusers.bench.baselines.window import Window, posterior_deviations, slide
from parareal_diffusers.bench.cases.problems import SamplerParts
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target


def paradigms(parts: SamplerParts, target: Target, stop: Stop, window: int) -> Sequence[Iterate]:
    """Run ParaDiGMS (Shih et al. 2023, arXiv 2305.16317, Algorithm 1).

    Every state in the window becomes the state at the window's head plus the sum of the increments of one solver step
    from each state in between. The paper's own stop rule compares the mean squared change of a state with the squared
    tolerance times the variance of the noise that DDPM would add there.

    Args:
        parts: the problem, of one sample.
        target: its sequential final state.
        stop: the rule by which states leave the window.
        window: the largest number of steps in the window; the number of steps or more for all of them.
    """
    deviations = posterior_deviations(parts)

    # Picard iteration treats settled and other states alike, so the number of settled states is not used.
    def update(current: Window, num_settled: int) -> Tensor:
        return current.x[:1] + (current.next_states - current.x[:-1]).cumsum(0)

    def find_settled(current: Window) -> Tensor:
        change = (update(current, 0) - current.x[1:]).flatten(1)
        rms = change.norm(dim=1) / change.shape[1] ** 0.5
        return rms <= stop.tolerance * deviations[current.head : current.end]

    return list(slide(parts, target, window, update, stop, find_settled))
