"""From the runs of some samples to the numbers of a table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import final

from parareal_diffusers.bench.cases.record import Iterate, Stop, first_within
from parareal_diffusers.bench.harness.collect import Found


@final
@dataclass(frozen=True)
class Cell:
    """What a method took with one rule to stop and one tolerance: means over samples, and the worst of some."""

    iterations: float
    most_iterations: int
    span: float
    work: float
    calls: float
    peak: int
    worst: float
    mean: float

    @staticmethod
    def of(iterates: Sequence[Iterate]) -> "Cell":
        """Return the numbers of one iterate a sample."""
        errors = [x.error for x in iterates]
        return Cell(
            fmean(x.iteration for x in iterates),
            max(x.iteration for x in iterates),
            fmean(x.span for x in iterates),
            fmean(x.work for x in iterates),
            fmean(x.calls for x in iterates),
            max(x.peak for x in iterates),
            max(errors),
            fmean(errors),
        )

    def beats(self, other: "Cell") -> bool:
        """Return whether both span and work are less."""
        return self.span < other.span and self.work < other.work


def complete(found: Iterable[Found], tolerances: Sequence[float]) -> int:
    """Return how many samples all methods have been run on."""
    counts = []
    for one in found:
        sets = [{i for i, stop in one.runs if stop == wanted} for wanted in one.method.stops(tolerances)]
        shared = set.intersection(*sets) if sets else set()
        counts.append(next(i for i in range(len(shared) + 1) if i not in shared))
    return min(counts, default=0)


def cell(found: Found, rule: str, tolerance: float, samples: int) -> Cell | None:
    """Return what a method took; with the rule `"oracle"`, of the run of least span; None if it got nowhere."""
    if rule == "oracle":
        return min(reached(found, tolerance, samples), key=lambda c: (c.span, c.work), default=None)
    return Cell.of([found.runs[i, Stop(rule, tolerance)][-1] for i in range(samples)])


def reached(found: Found, tolerance: float, samples: int) -> list[Cell]:
    """Return, for each run that an oracle looks at, the first iterate of every sample that is within a tolerance.

    A method with a sliding window has several, for it makes other iterates with other tolerances for its steps.
    """
    cells = []
    for trace in found.method.traces:
        first = [first_within(found.runs[i, trace], tolerance) for i in range(samples)]
        good = [x for x in first if x is not None]
        cells += [Cell.of(good)] if len(good) == samples else []
    return cells


def frontier(cells: Sequence[Cell]) -> list[Cell]:
    """Return those of which no other has less of span or work and no more of the other, rising in span."""
    kept: list[Cell] = []
    for one in sorted(cells, key=lambda c: (c.span, c.work)):
        if not kept or one.work < kept[-1].work:
            kept.append(one)
    return kept


def beaten(found: Sequence[Found], rule: str, tolerance: float, samples: int) -> list[tuple[str, str]]:
    """Return the pairs (a published method, one of ours on our frontier) of which the first has less span and work.

    With `rule="as run"` each stops by `BenchMethod.rule`.
    """
    cells: dict[str, list[Cell]] = {}
    for one in found:
        if rule == "oracle":
            cells[one.method.name] = reached(one, tolerance, samples)
        else:
            run = cell(one, one.method.rule, tolerance, samples)
            cells[one.method.name] = [run] if run is not None and run.worst <= tolerance else []
    names = [one.method.name for one in found if one.method.family == "ours"]
    best = frontier([c for name in names for c in cells[name]])
    return [
        (name, mine)
        for name, theirs in cells.items()
        if name not in names
        for mine in names
        if any(own in best and one.beats(own) for own in cells[mine] for one in theirs)
    ]
