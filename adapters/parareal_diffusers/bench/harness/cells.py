"""Mean costs of runs over samples, and the comparison of methods by span and work."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import final

from parareal_diffusers.bench.cases.record import Iterate, Stop, find_first_within
from parareal_diffusers.bench.harness.collect import MethodRuns


@final
@dataclass(frozen=True)
class RunSummary:
    """Cost and error of one method with one stop rule and tolerance, over all samples.

    Counts are means over the samples, except for `most_iterations` and `peak`, which are maxima.
    """

    iterations: float
    most_iterations: int
    span: float
    work: float
    calls: float
    peak: int
    worst_error: float
    """largest relative error"""
    mean_error: float
    """mean relative error"""

    @staticmethod
    def of(iterates: Sequence[Iterate]) -> "RunSummary":
        """Summarize one iterate per sample."""
        errors = [x.error for x in iterates]
        return RunSummary(
            fmean(x.iteration for x in iterates),
            max(x.iteration for x in iterates),
            fmean(x.span for x in iterates),
            fmean(x.work for x in iterates),
            fmean(x.calls for x in iterates),
            max(x.peak for x in iterates),
            max(errors),
            fmean(errors),
        )

    def dominates(self, other: "RunSummary") -> bool:
        """Return whether both span and work are less."""
        return self.span < other.span and self.work < other.work


def count_complete_samples(results: Iterable[MethodRuns], tolerances: Sequence[float]) -> int:
    """Return the number of samples, from the first on, on which every method has been run with all its stop rules."""
    counts = []
    for result in results:
        sets = [{i for i, stop in result.runs if stop == wanted} for wanted in result.method.stops(tolerances)]
        shared = set.intersection(*sets) if sets else set()
        counts.append(next(i for i in range(len(shared) + 1) if i not in shared))
    return min(counts, default=0)


def summarize(result: MethodRuns, rule: str, tolerance: float, samples: int) -> RunSummary | None:
    """Return a method's cost and error with one stop rule and tolerance.

    With the rule `"oracle"` it is that of the run of least span, and None if no run came within the tolerance.
    """
    if rule == "oracle":
        return min(summarize_oracle(result, tolerance, samples), key=lambda c: (c.span, c.work), default=None)
    return RunSummary.of([result.runs[i, Stop(rule, tolerance)][-1] for i in range(samples)])


def summarize_oracle(result: MethodRuns, tolerance: float, samples: int) -> list[RunSummary]:
    """Summarize, for each run in which an oracle looks, the first iterate of every sample within a tolerance.

    A method with a sliding window has several such runs, because the tolerance by which its window advances changes its
    iterates.
    """
    summaries = []
    for stop in result.method.oracle_stops:
        first = [find_first_within(result.runs[i, stop], tolerance) for i in range(samples)]
        good = [x for x in first if x is not None]
        # A mean over only those samples that came within the tolerance would hide the others.
        summaries += [RunSummary.of(good)] if len(good) == samples else []
    return summaries


def find_frontier(summaries: Sequence[RunSummary]) -> list[RunSummary]:
    """Return the Pareto frontier of span and work, by rising span."""
    frontier: list[RunSummary] = []
    # By rising span, a point is on the frontier if it has less work than every point before it.
    for summary in sorted(summaries, key=lambda c: (c.span, c.work)):
        if not frontier or summary.work < frontier[-1].work:
            frontier.append(summary)
    return frontier


def find_dominations(results: Sequence[MethodRuns], rule: str, tolerance: float, samples: int) -> list[tuple[str, str]]:
    """Return pairs of names in which a published method has less span and less work than a setting of ours.

    Only settings on the Pareto frontier of all our settings are compared. With `rule="as run"` each method stops by
    `BenchMethod.rule`, and only runs within the tolerance count.
    """
    summaries: dict[str, list[RunSummary]] = {}
    for result in results:
        if rule == "oracle":
            summaries[result.method.name] = summarize_oracle(result, tolerance, samples)
        else:
            run = summarize(result, result.method.rule, tolerance, samples)
            # A run that stopped short of the tolerance has less span and work for the wrong reason.
            summaries[result.method.name] = [run] if run is not None and run.worst_error <= tolerance else []
    names = [result.method.name for result in results if result.method.family == "ours"]
    best = find_frontier([c for name in names for c in summaries[name]])
    return [
        (name, our_name)
        for name, theirs in summaries.items()
        if name not in names
        for our_name in names
        if any(mine in best and other.dominates(mine) for mine in summaries[our_name] for other in theirs)
    ]
