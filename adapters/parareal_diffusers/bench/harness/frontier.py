"""Span against work at equal error, as pictures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from parareal_diffusers.bench.harness.cells import cell, complete, frontier, reached
from parareal_diffusers.bench.harness.collect import Found, Where
from parareal_diffusers.bench.harness.tables import title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"SRDS": "tab:blue", "ParaDiGMS": "tab:orange", "ParaTAA": "tab:green", "CHORDS": "tab:purple"}
MARKERS = "os^Dv*P<Xph>d"


def picture(tables: Mapping[Where, Sequence[Found]], problem: str, tolerances: Sequence[float]) -> "Figure":
    """Draw one panel for each tolerance and number of steps; filled markers: the oracle's stop, hollow: as run."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    mine = {w: f for w, f in tables.items() if w.problem == problem and complete(f, tolerances)}
    figure = Figure(figsize=(max(3.2 * len(mine), 9.0), 2.5 * len(tolerances) + 1.2), layout="constrained")
    panels = figure.subplots(len(tolerances), len(mine), squeeze=False)
    looks = _looks(mine)
    for column, (where, found) in enumerate(mine.items()):
        for row, tolerance in enumerate(tolerances):
            _panel(panels[row][column], where, found, tolerance, complete(found, tolerances), looks)
            if column == 0:
                panels[row][0].set_ylabel(f"error {tolerance:g}\nwork / N")
        panels[-1][column].set_xlabel("span")
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=name)
        for name, (colour, marker) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(f"{title(problem)}: filled by an oracle, hollow as run", fontsize=11)
    return figure


def _looks(tables: Mapping[Where, Sequence[Found]]) -> dict[str, tuple[str, str]]:
    """Return a colour for each family, and a marker for each of its methods."""
    looks: dict[str, tuple[str, str]] = {}
    for found in tables.values():
        for one in found:
            if one.method.name not in looks:
                colour = COLOURS.get(one.method.family, "black")
                looks[one.method.name] = (colour, MARKERS[sum(c == colour for c, _ in looks.values()) % len(MARKERS)])
    return looks


def _panel(
    axes: "Axes", where: Where, found: Sequence[Found], tolerance: float, samples: int,
    looks: Mapping[str, tuple[str, str]],
) -> None:  # fmt: skip
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    ours = []
    for one in found:
        colour, marker = looks[one.method.name]
        best = frontier(reached(one, tolerance, samples))
        run = cell(one, one.method.rule, tolerance, samples)
        for point in best:
            axes.plot(point.span, point.work / where.steps, marker, color=colour, markersize=6)
        ours += best if one.method.family == "ours" else []
        if run is not None and run.worst <= tolerance:
            axes.plot(run.span, run.work / where.steps, marker, color=colour, markersize=6, fillstyle="none", alpha=0.6)
    edge = frontier(ours)
    axes.step([c.span for c in edge], [c.work / where.steps for c in edge], "k:", where="post", linewidth=1)
    axes.axhline(1, color="grey", linewidth=0.6)
    axes.axvline(where.steps, color="grey", linewidth=0.6)
    axes.set(xscale="log", yscale="log", title=f"N = {where.steps}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    axes.title.set_fontsize(9)
    axes.tick_params(labelsize=7, which="both")
    axes.grid(True, which="both", linewidth=0.3, alpha=0.5)
