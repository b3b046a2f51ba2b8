"""Published methods as keyword arguments of `sample`."""

from typing import Any

from parareal import LastChange


def srds() -> dict[str, Any]:
    """Return the settings of SRDS (Selvam, Merchant, Ermon 2024, arXiv 2412.08292): `sample(..., **srds())`.

    The solver's own jumps (DDIM's for a `DDIMScheduler`), as many slices as the root of the number of steps, and a stop
    on the last state's mean absolute change. Its threshold is 0.1 on the scale 0 .. 255 of 8-bit pixels, taken for
    states between -1 and 1.
    """
    return {"slices": "sqrt", "coarse": "same", "criterion": LastChange(atol=0.1 / 127.5)}


def picard(window: int | None = None) -> dict[str, Any]:
    """Return the settings of ParaDiGMS (Shih et al. 2023, arXiv 2305.16317): `sample(..., **picard(64))`.

    Picard iteration: the identity as coarse propagator and a slice for every step. With a `window`, only so many steps
    from the first that is not final are under way, and a step that is let in starts from the newest state at its left
    (their Algorithm 1). The window moves on as `tolerance` settles steps, which is our rule, not theirs.
    """
    return {"slices": "steps", "coarse": "identity", "window": window}
