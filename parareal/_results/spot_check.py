"""The result of a spot check: F was run once more on accepted states."""

from dataclasses import dataclass, field
from typing import final

import numpy as np


@final
@dataclass(frozen=True)
class SpotCheck:
    """Defects of slices that were drawn after the stop: F ran once more there, on the states that were accepted.

    The keyword `spot_check` of `solve` requests it. Samples are checked that converged, or made the requested number of
    iterations. Exact ones need no check. Slices are drawn reproducibly, and differently per sample: among those whose
    result is not exact, and first those whose result `Increment`, `Defect` or another local criterion has accepted.
    With nested levels, F is the innermost fine propagator over the whole slice, at full accuracy.

    A defect takes the outcome `CONVERGED` back in two cases. Norms are those of the criterion.

    - `Increment`, `Defect`, and criteria of your own with a method `threshold(evidence)`: the defect is above three
      times the threshold; with nested levels, above three times the threshold per innermost slice. If the state is a
      pytree, this is decided leaf by leaf, and with `norm="scaled"` component by component. The size of a leaf or
      component is the largest of U(k, n), U(k, n+1) and F(U(k, n)).
    - `Tolerance`: the defect times the growth is above `3 * rtol` times the norm of the final state. The growth is the
      product of the gains that the solve has measured in the slices further right: the factor by which the defect is
      multiplied on its way to the final state (docs/explained/estimates.md, eq. 16).

    Other criteria do not bound defects, so that theirs are only reported. Rounding contradicts nothing. A check without
    a contradiction proves nothing about the slices that were not drawn.
    """

    defects: np.ndarray
    """norms of F(U(k, n)) - U(k, n+1), shape (slices, samples); NaN where not checked, infinite where F is not
    finite"""
    relative_defects: np.ndarray
    """defects over the larger norm of the two states, shape (slices, samples); NaN where not checked"""
    contradicted: np.ndarray
    """whether a defect of the sample contradicts the criterion, shape (samples,)"""
    cause: str = field(default="", repr=False)
    """the worst contradiction in words; empty if there is none"""

    @property
    def checked(self) -> np.ndarray:
        """Whether a slice of a sample was checked, shape (slices, samples)."""
        return ~np.isnan(self.defects)

    @property
    def largest(self) -> float:
        """The largest relative defect; NaN if no slice was checked."""
        return float(np.nanmax(self.relative_defects)) if self.checked.any() else float("nan")
