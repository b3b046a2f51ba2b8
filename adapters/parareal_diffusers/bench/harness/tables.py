"""The tables, in Markdown."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from parareal_diffusers._commands.report import markdown
from parareal_diffusers.bench.cases.problems import PROBLEMS
from parareal_diffusers.bench.harness.cells import Cell, beaten, cell, complete
from parareal_diffusers.bench.harness.collect import Found, Where
from parareal_diffusers.bench.harness.methods import METHODS
from parareal_diffusers.bench.harness.timing import TOLERANCE, wall_key

RULES = {"oracle": "oracle", "increment": "as run: increment", "estimate": "as run: estimate", "own": "as run: its own"}


@cache
def title(problem: str) -> str:
    """Return a problem's title, by its name."""
    return PROBLEMS[problem](1).title


def full(where: Where, found: Sequence[Found], tolerance: float, samples: int, walls: Mapping[str, Any]) -> str:
    """Return all numbers of a problem with one number of steps and one tolerance."""
    rows = []
    for one in found:
        for rule in ("oracle", *one.method.rules):
            as_timed = rule == one.method.rule and tolerance == TOLERANCE
            wall = walls.get(wall_key(where, one.method)) if as_timed else None
            rows.append(_row(one.method.name, RULES[rule], cell(one, rule, tolerance, samples), where.steps, wall))
    return markdown(rows)


def _row(name: str, rule: str, found: Cell | None, steps: int, wall: Sequence[float] | None) -> dict[str, str]:
    heads = ["iterations", "span", "work/N", "calls", "peak batch", "worst error", "mean error", "wall ratio"]
    if found is None:
        return {"method": name, "stop": rule, **dict.fromkeys(heads, "-")}
    numbers = (
        iterations(found),
        f"{found.span:.0f}",
        f"{found.work / steps:.2f}",
        f"{found.calls:.0f}",
        f"{found.peak}",
        f"{found.worst:.1e}",
        f"{found.mean:.1e}",
        _timed(wall),
    )
    return {"method": name, "stop": rule, **dict(zip(heads, numbers, strict=True))}


def iterations(found: Cell) -> str:
    """Return the mean number of iterations, and the largest where they differ."""
    whole = found.iterations == found.most_iterations
    return f"{found.most_iterations}" if whole else f"{found.iterations:.1f} ({found.most_iterations})"


def summary(
    tables: Mapping[Where, Sequence[Found]], problem: str, tolerance: float, tolerances: Sequence[float]
) -> str:
    """Return span, work/N and the worst error of a problem by method and number of steps, for one tolerance."""
    mine = {where: found for where, found in tables.items() if where.problem == problem}
    names = list(dict.fromkeys(one.method.name for found in mine.values() for one in found))
    rows = []
    for name in names:
        row: dict[str, str] = {"method": name}
        for where, found in mine.items():
            one = next((f for f in found if f.method.name == name), None)
            count = complete(found, tolerances)
            for head, rule in ((f"N={where.steps}: oracle", "oracle"), ("as run", "")):
                head = head if rule else f"N={where.steps}: as run"
                if one is None or not count:
                    row[head] = "-"
                    continue
                got = cell(one, rule or one.method.rule, tolerance, count)
                over = "" if got is None or got.worst <= tolerance else " !"
                row[head] = "-" if got is None else f"{got.span:.0f}, {got.work / where.steps:.2f}{over}"
        rows.append(row)
    return markdown(rows) if rows else ""


def wall_ratios(
    tables: Mapping[Where, Sequence[Found]], problems: Sequence[str], walls: Mapping[str, Sequence[float]]
) -> list[str]:
    """Return a table of wall ratios for each problem that was timed, by method and number of steps."""
    parts = []
    for problem in problems:
        rows = _wall_rows({w: found for w, found in tables.items() if w.problem == problem}, walls)
        told = "wall ratios: the median of five runs, the smallest and the largest"
        parts += [f"**{title(problem)}**, tolerance {TOLERANCE:g}, {told}.\n\n{markdown(rows)}"] if rows else []
    return parts


def _wall_rows(mine: Mapping[Where, Sequence[Found]], walls: Mapping[str, Sequence[float]]) -> list[dict[str, str]]:
    rows = []
    for name in dict.fromkeys(one.method.name for found in mine.values() for one in found):
        timed = {f"N={where.steps}": walls.get(wall_key(where, METHODS[name])) for where in mine}
        if any(wall is not None for wall in timed.values()):
            rows.append({"method": name, **{head: _timed(wall) for head, wall in timed.items()}})
    return rows


def _timed(wall: Sequence[float] | None) -> str:
    """Return the median, the smallest and the largest of five runs, and whether an error was too large."""
    if wall is None:
        return "-"
    over = " !" if wall[3] > TOLERANCE else ""
    return f"{wall[0]:.2f} ({wall[1]:.2f} to {wall[2]:.2f}){over}"


def verdict(tables: Mapping[Where, Sequence[Found]], tolerances: Sequence[float]) -> str:
    """Say where a published method has both less span and less work than one of ours that no other of ours beats."""
    lines, count = [], 0
    for rule in ("oracle", "as run"):
        for where, found in tables.items():
            samples = complete(found, tolerances)
            for tolerance in tolerances if samples else ():
                count += 1
                lines += [
                    f"- {title(where.problem)}, N={where.steps}, tolerance {tolerance:g}, {rule}: *{theirs}* has "
                    f"less span and less work than *{mine}*."
                    for theirs, mine in beaten(found, rule, tolerance, samples)
                ]
    if not lines:
        return f"In none of {count} cells a published method has both less span and less work than our best."
    return (
        f"Of {count} cells, in these a published method has both less span and less work than our best:\n\n"
        + "\n".join(lines)
    )
