"""Published methods as keyword arguments of `sample`."""

from typing import Any

from parareal import LastChange


def srds() -> dict[str, Any]:
    """Return the settings of SRDS (Selvam, Merchant, Ermon 2024, arXiv 2412.08292): `sample(..., **srds())`.

    DDIM jumps, as many slices as the root of the number of steps, and a stop on the last state's mean absolute
    change. Its threshold is 0.1 on the scale 0 .. 255 of 8-bit pixels, taken for states between -1 and 1.
    """
    return {"slices": "sqrt", "coarse": "same", "criterion": LastChange(atol=0.1 / 127.5)}


def picard(window: int | None = None) -> dict[str, Any]:
    """Return the settings of ParaDiGMS (Shih et al. 2023, arXiv 2305.16317), for a window over all steps.

    Raises:
        ValueError: for a shorter window, which the engine does not have yet.
    """
    if window is not None:
        raise ValueError("picard: only window=None, all steps at once, is available so far")
    return {"slices": "steps", "coarse": "identity"}
