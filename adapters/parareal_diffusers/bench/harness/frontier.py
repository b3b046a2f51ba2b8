"""Figures of span against work at equal error."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from parareal_diffusers.bench.harness.cells import (
    count_complete_samples,
    find_frontier,
    summarize,
    summarize_oracle,
)
from parareal_diffusers.bench.harness.collect import MethodRuns, TableKey
from parareal_diffusers.bench.harness.tables import problem_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"SRDS": "tab:blue", "ParaDiGMS": "tab:orange", "ParaTAA": "tab:green", "CHORDS": "tab:purple"}
MARKERS = "os^Dv*P<Xph>d"


def plot_frontiers(
    tables: Mapping[TableKey, Sequence[MethodRuns]], problem: str, tolerances: Sequence[float]
) -> "Figure":
    """Draw one panel per tolerance and number of steps.

    Filled markers are runs that an oracle stops, hollow ones are runs with the method's stop rule. The dotted line is
    the Pareto frontier of our settings, by the oracle.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    results_of = {
        key: results
        for key, results in tables.items()
        if key.problem == problem and count_complete_samples(results, tolerances)
    }
    figure = Figure(figsize=(max(3.2 * len(results_of), 9.0), 2.5 * len(tolerances) + 1.2), layout="constrained")
    panels = figure.subplots(len(tolerances), len(results_of), squeeze=False)
    styles = _assign_styles(results_of)
    for column, (key, results) in enumerate(results_of.items()):
        for row, tolerance in enumerate(tolerances):
            samples = count_complete_samples(results, tolerances)
            _draw_panel(panels[row][column], key, results, tolerance, samples, styles)
            if column == 0:
                panels[row][0].set_ylabel(f"tolerance {tolerance:g}\nwork / N")
        panels[-1][column].set_xlabel("span")
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=name)
        for name, (colour, marker) in styles.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(f"{problem_title(problem)}: filled markers by the oracle, hollow markers as run", fontsize=11)
    return figure


def _assign_styles(tables: Mapping[TableKey, Sequence[MethodRuns]]) -> dict[str, tuple[str, str]]:
    """Return colour and marker by method: one colour per family, one marker per method of a family."""
    styles: dict[str, tuple[str, str]] = {}
    for results in tables.values():
        for result in results:
            if result.method.name not in styles:
                colour = COLOURS.get(result.method.family, "black")
                marker = MARKERS[sum(c == colour for c, _ in styles.values()) % len(MARKERS)]
                styles[result.method.name] = (colour, marker)
    return styles


def _draw_panel(
    axes: "Axes", key: TableKey, results: Sequence[MethodRuns], tolerance: float, samples: int,
    styles: Mapping[str, tuple[str, str]],
) -> None:  # fmt: skip
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    ours = []
    for result in results:
        colour, marker = styles[result.method.name]
        best = find_frontier(summarize_oracle(result, tolerance, samples))
        run = summarize(result, result.method.rule, tolerance, samples)
        for point in best:
            axes.plot(point.span, point.work / key.steps, marker, color=colour, markersize=6)
        ours += best if result.method.family == "ours" else []
        # Runs that stopped short of the tolerance are left out: their span and work would look too good.
        if run is not None and run.worst_error <= tolerance:
            axes.plot(run.span, run.work / key.steps, marker, color=colour, markersize=6, fillstyle="none", alpha=0.6)
    edge = find_frontier(ours)
    axes.step([c.span for c in edge], [c.work / key.steps for c in edge], "k:", where="post", linewidth=1)
    # The sequential loop has work N and span N.
    axes.axhline(1, color="grey", linewidth=0.6)
    axes.axvline(key.steps, color="grey", linewidth=0.6)
    axes.set(xscale="log", yscale="log", title=f"N = {key.steps}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    axes.title.set_fontsize(9)
    axes.tick_params(labelsize=7, which="both")
    axes.grid(True, which="both", linewidth=0.3, alpha=0.5)
