"""Published methods as keyword arguments of `sample`."""

from typing import Any

from parareal import LastChange


def srds() -> dict[str, Any]:
    """Return the settings of SRDS (Selvam, Merchant, Ermon 2024, arXiv 2412.08292): `sample(..., **srds())`.

    The coarse solver is the fine one, with one jump per slice (DDIM's for a `DDIMScheduler`). The number of slices is
    the rounded root of the number of steps. The run stops when the mean absolute change of the final state is at most
    0.1 on the scale 0 .. 255 of 8-bit pixels, converted to states between -1 and 1.
    """
    return {"slices": "sqrt", "coarse": "same", "criterion": LastChange(atol=0.1 / 127.5)}


def picard(window: int | None = None) -> dict[str, Any]:
    """Return the settings of ParaDiGMS (Shih et al. 2023, arXiv 2305.16317): `sample(..., **picard(64))`.

    Picard iteration: the coarse propagator is the identity, and every step is a slice.

    Args:
        window: only the first `window` steps that are not final are under way, and a step that is admitted starts from
            the newest state at its left boundary (their Algorithm 1). The window advances as `tolerance` settles steps,
            which is our rule, not theirs. None for a window over all steps.
    """
    return {"slices": "steps", "coarse": "identity", "window": window}
