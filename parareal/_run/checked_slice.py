"""One slice in a spot check: the requests that cross it, its defect, and the largest one that contradicts nothing."""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple, final

from parareal._criteria import Evidence, Tolerance
from parareal._iteration.measure import Measurements
from parareal._iteration.messages import Kind, Request, Scope, Value
from parareal._iteration.rules import Rules
from parareal._problem.levels import Level
from parareal._problem.problem import Problem
from parareal._state import State, Time

FACTOR = 3
"""A defect contradicts a criterion if it is above this multiple of the criterion's bound."""
ROUNDING = 32
"""A defect of at most this many units of rounding of the largest state of the slice contradicts nothing."""


@final
@dataclass(slots=True)
class CheckedSlice:
    """One slice of one sample that is being checked."""

    index: int
    start: Value
    """U(k, n), with its sizes"""
    end: Value
    """U(k, n+1), with its sizes"""
    final_size: float
    """norm of the final state"""
    growth: float
    """amplification of an error at the slice's end on its way to the final state"""
    count: int
    """number of innermost slices"""
    pieces: list[Request]
    """the propagations by the innermost F that cross the slice one after another, and are still to be made; their
    values are set when they start"""


class SliceDefect(NamedTuple):
    """The defect of a slice."""

    norm: float
    """norm of F(U(k, n)) - U(k, n+1); infinite if F is not finite"""
    relative: float
    """the same over the larger norm of the two states"""
    limit: float
    """the largest norm that does not contradict the criterion; infinite if the criterion makes no promise"""


def list_pieces(
    problem: Problem, sample: int, slice: int, start: Value, edges: list[Time], scope: Scope
) -> list[Request]:
    """Return the requests to the innermost F that cross a slice; without nested levels there is one.

    Args:
        problem: the problem.
        sample, slice: the slice and its sample.
        start: U(k, n).
        edges: the boundaries of the innermost slices, from the slice's left one to its right one.
        scope: the scope of the requests.
    """
    # Full accuracy: results that an inner solve or `iteration=` leaves approximate would prove nothing.
    build = partial(Request, sample, iteration=start.iteration, kind=Kind.FINE, value=start, full_accuracy=True)
    # The propagations of nested levels further out are not run. The requests name them, so that the history shows the
    # level and the check finds the slice.
    outer, fine = None, problem.fine
    while isinstance(fine, Level):
        outer, fine = build(slice, start=edges[0], stop=edges[-1], outer=outer), fine.fine
    return [
        build(slice if outer is None else i, start=t0, stop=t1, outer=outer, scope=scope)
        for i, (t0, t1) in enumerate(pairwise(edges))
    ]


def judge_slice(rules: Rules, checked: CheckedSlice, fine: State) -> SliceDefect:
    """Return the defect of a slice from F(U(k, n))."""
    measure, start, end = rules.measure, checked.start, checked.end
    value = measure.add_sizes(end._replace(state=fine), measure.measure_sizes(fine))
    # `compare` allows for one unit of rounding, and FACTOR will multiply it. `Tolerance` judges errors of the final
    # state, to which rounding errors grow as well.
    scale = ROUNDING / FACTOR * (checked.growth if isinstance(rules.criterion, Tolerance) else 1.0)
    largest = map(max, start.sizes, end.sizes, value.sizes)
    value = value._replace(largest_sizes=tuple(scale * size for size in largest))
    # A state or component that passes through zero has no size of its own. At the slice's start it has one, and the
    # change that was accepted there causes the defect. So the start counts in all sizes below.
    measured = measure.compare(value, end, fine, measure.norm_at(value, end.state, start.state))
    defect, size = measured.defect, max(value.size, end.size)
    if not math.isfinite(defect):  # NaN stands for slices that were not checked
        defect, size, measured = math.inf, end.size, Measurements(math.inf, math.inf, end.size, 0.0)
    leaves = tuple(
        leaf._replace(previous_size=max(leaf.previous_size, at_start))
        for leaf, at_start in zip(measured.leaves, start.sizes, strict=False)
    )
    evidence = Evidence(end.iteration, checked.index + 1, defect, defect, size, math.inf, previous_size=start.size)
    evidence = evidence._replace(rounding=measured.rounding, leaves=leaves)
    return SliceDefect(defect, defect / size if defect else 0.0, _find_limit(rules, checked, evidence))


def _find_limit(rules: Rules, checked: CheckedSlice, evidence: Evidence) -> float:
    """Return the largest defect that does not contradict the criterion; infinite if it has made no promise."""
    criterion = rules.criterion
    if isinstance(criterion, Tolerance):
        # the promise is about the final state, to which every defect is carried
        limit = FACTOR * max(criterion.rtol * checked.final_size, evidence.rounding)
        return limit / checked.growth if checked.growth else math.inf
    threshold = getattr(criterion, "threshold", None)
    if threshold is None:
        return math.inf
    factor = FACTOR * checked.count  # with nested levels every innermost slice adds a defect of its own
    if not evidence.leaves:
        return factor * threshold(evidence)
    # the leaf with the worst ratio decides, and the defect of the whole state is reported
    ratio = max(_divide(leaf.defect, factor * threshold(leaf)) for leaf in evidence.leaves)
    return _divide(evidence.defect, ratio)


def _divide(a: float, b: float) -> float:
    """Return a / b; 0 for 0 / 0 and infinity for any other division by 0."""
    return a / b if b else math.inf if a else 0.0
