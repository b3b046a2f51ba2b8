"""Tables of the comparison, in Markdown."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from parareal_diffusers._commands.report import markdown
from parareal_diffusers.bench.cases.problems import PROBLEMS
from parareal_diffusers.bench.harness.cells import RunSummary, count_complete_samples, find_dominations, summarize
from parareal_diffusers.bench.harness.collect import MethodRuns, TableKey
from parareal_diffusers.bench.harness.methods import METHODS
from parareal_diffusers.bench.harness.timing import TOLERANCE, wall_key

RULES = {
    "oracle": "oracle",
    "increment": "as run: increment",
    "estimate": "as run: estimate",
    "own": "as run: published",
}
"""names of the stop rules in tables; "published" is the rule of the method's paper"""


@cache
def problem_title(problem: str) -> str:
    """Return a problem's title, by its name."""
    # Titles belong to the problems, so a problem with one sample is built. Cached, because that loads a network.
    return PROBLEMS[problem](1).title


def format_full_table(
    key: TableKey, results: Sequence[MethodRuns], tolerance: float, samples: int, speedups: Mapping[str, Any]
) -> str:
    """Return the table of all numbers for a problem, a number of steps and a tolerance."""
    rows = []
    for result in results:
        for rule in ("oracle", *result.method.rules):
            # Methods are timed with one rule and one tolerance only.
            as_timed = rule == result.method.rule and tolerance == TOLERANCE
            speedup = speedups.get(wall_key(key, result.method)) if as_timed else None
            summary = summarize(result, rule, tolerance, samples)
            rows.append(_row(result.method.name, RULES[rule], summary, key.steps, speedup))
    return markdown(rows)


def _row(
    name: str, rule: str, summary: RunSummary | None, steps: int, speedup: Sequence[float] | None
) -> dict[str, str]:
    heads = ["iterations", "span", "work/N", "calls", "peak batch", "worst error", "mean error", "speed-up"]
    if summary is None:
        return {"method": name, "stop": rule, **dict.fromkeys(heads, "-")}
    numbers = (
        format_iterations(summary),
        f"{summary.span:.0f}",
        f"{summary.work / steps:.2f}",
        f"{summary.calls:.0f}",
        f"{summary.peak}",
        f"{summary.worst_error:.1e}",
        f"{summary.mean_error:.1e}",
        _format_speedup(speedup),
    )
    return {"method": name, "stop": rule, **dict(zip(heads, numbers, strict=True))}


def format_iterations(summary: RunSummary) -> str:
    """Return the mean number of iterations, with the largest in brackets where samples differ."""
    whole = summary.iterations == summary.most_iterations
    return f"{summary.most_iterations}" if whole else f"{summary.iterations:.1f} ({summary.most_iterations})"


def format_summary(
    tables: Mapping[TableKey, Sequence[MethodRuns]], problem: str, tolerance: float, tolerances: Sequence[float]
) -> str:
    """Return the table of span and work/N of a problem, by method and number of steps, for one tolerance.

    An exclamation mark follows where the worst error is above the tolerance.
    """
    results_of = {key: results for key, results in tables.items() if key.problem == problem}
    names = list(dict.fromkeys(result.method.name for results in results_of.values() for result in results))
    rows = []
    for name in names:
        row: dict[str, str] = {"method": name}
        for key, results in results_of.items():
            result = next((r for r in results if r.method.name == name), None)
            count = count_complete_samples(results, tolerances)
            for head, rule in ((f"N={key.steps}: oracle", "oracle"), (f"N={key.steps}: as run", "")):
                if result is None or not count:
                    row[head] = "-"
                    continue
                summary = summarize(result, rule or result.method.rule, tolerance, count)
                over = "" if summary is None or summary.worst_error <= tolerance else " !"
                row[head] = "-" if summary is None else f"{summary.span:.0f}, {summary.work / key.steps:.2f}{over}"
        rows.append(row)
    return markdown(rows) if rows else ""


def format_speedups(
    tables: Mapping[TableKey, Sequence[MethodRuns]], problems: Sequence[str], speedups: Mapping[str, Sequence[float]]
) -> list[str]:
    """Return one table of speed-ups per timed problem, by method and number of steps."""
    parts = []
    for problem in problems:
        rows = _speedup_rows({k: results for k, results in tables.items() if k.problem == problem}, speedups)
        note = "speed-up over the sequential loop: the median of five runs, the smallest and the largest"
        parts += [f"**{problem_title(problem)}**, tolerance {TOLERANCE:g}, {note}.\n\n{markdown(rows)}"] if rows else []
    return parts


def _speedup_rows(
    tables: Mapping[TableKey, Sequence[MethodRuns]], speedups: Mapping[str, Sequence[float]]
) -> list[dict[str, str]]:
    rows = []
    for name in dict.fromkeys(result.method.name for results in tables.values() for result in results):
        row = {f"N={key.steps}": speedups.get(wall_key(key, METHODS[name])) for key in tables}
        if any(speedup is not None for speedup in row.values()):
            rows.append({"method": name, **{head: _format_speedup(speedup) for head, speedup in row.items()}})
    return rows


def _format_speedup(speedup: Sequence[float] | None) -> str:
    """Return the median, the smallest and the largest of five runs, and a mark if an error was above the tolerance."""
    if speedup is None:
        return "-"
    over = " !" if speedup[3] > TOLERANCE else ""
    return f"{speedup[0]:.2f} ({speedup[1]:.2f} to {speedup[2]:.2f}){over}"


def format_verdict(tables: Mapping[TableKey, Sequence[MethodRuns]], tolerances: Sequence[float]) -> str:
    """List where a published method has less span and less work than a setting on the Pareto frontier of ours."""
    lines, count = [], 0
    for rule in ("oracle", "as run"):
        for key, results in tables.items():
            samples = count_complete_samples(results, tolerances)
            for tolerance in tolerances if samples else ():
                count += 1
                lines += [
                    f"- {problem_title(key.problem)}, N={key.steps}, tolerance {tolerance:g}, {rule}: *{theirs}* has "
                    f"less span and less work than *{ours}*."
                    for theirs, ours in find_dominations(results, rule, tolerance, samples)
                ]
    if not lines:
        return f"In none of {count} cells does a published method have both less span and less work than our best."
    return (
        f"In these of {count} cells a published method has both less span and less work than our best:\n\n"
        + "\n".join(lines)
    )
