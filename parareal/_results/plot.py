"""Plots of convergence and of schedules. They need matplotlib, the extra `plot`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parareal._results.history import Propagation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COARSE = "#b23a48"


def _figure(width: float, height: float, columns: int = 1) -> tuple["Figure", "np.ndarray"]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib: install the extra parareal-torch[plot]") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns, sharey=True))


def _shade(iteration: int, iterations: int) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * iteration / max(iterations, 1))


def convergence(increments: np.ndarray, defects: np.ndarray) -> "Figure":
    """Plot norms by boundary, one line per iteration, of the worst sample.

    Both have shape (iterations, boundaries, samples).
    """
    figure, axes = _figure(9, 3.6, columns=2)
    count = len(increments)
    for axis, name, table in zip(axes, ("increment", "defect"), (increments, defects), strict=True):
        for k in range(count):
            _line(axis, table[k], f"iteration {k}", _shade(k, count))
        axis.set_yscale("log")
        axis.set_xlabel("boundary")
        axis.set_title(f"{name} (worst sample)")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("norm")
    axes[0].legend(frameon=False, fontsize="small")
    return figure


def _line(axis: "Axes", rows: np.ndarray, label: str, color: tuple[float, float, float, float]) -> None:
    made = ~np.isnan(rows).all(axis=1)
    if made.any():
        worst = np.nanmax(rows[made], axis=1)
        shown = worst > 0
        axis.plot(np.flatnonzero(made)[shown], worst[shown], marker="o", ms=3.5, lw=1.4, color=color, label=label)


def timeline(
    propagations: Sequence[Propagation], boundaries: Sequence[Any], span: float, sequential_span: float
) -> "Figure":
    """Draw each propagation of the first sample as a bar: its slice over evaluations on the critical path.

    Of nested levels, the innermost is drawn, within the outermost slices, and coarse jumps of all.
    """
    slices = len(boundaries) - 1
    mine = [p for p in propagations if p.sample == 0]
    bars = len({(p.level, p.t0) for p in mine})
    figure, (axis,) = _figure(9, min(1.6 + max(0.16 * slices, 0.06 * bars), 9))
    innermost = max((p.level for p in mine), default=0)
    iterations = max((p.iteration for p in mine if p.level == innermost), default=0)
    place = _places(boundaries)
    seen = set()
    for p in sorted(mine, key=lambda p: (p.kind, p.iteration)):
        coarse = p.kind == "coarse"
        if not coarse and p.level < innermost:
            continue  # the slices within it show it better
        label = "coarse" if coarse else f"fine, iteration {p.iteration}"
        top, bottom = place(p.t0), place(p.t1)
        height = bottom - top
        axis.barh(
            top + (0.72 if coarse else 0.38) * height - 0.5,
            p.stop - p.start,
            left=p.start,
            height=(0.3 if coarse else 0.5) * height,
            color=_COARSE if coarse else _shade(p.iteration, iterations + 1),
            edgecolor="white",
            linewidth=0.0 if innermost else 0.4,
            label=None if label in seen else label,
        )
        seen.add(label)
    axis.axvline(span, color="0.3", lw=1, ls="--")
    axis.set(xlabel="evaluations on the critical path", ylabel="slice", xlim=(0, None))
    axis.set_title(f"schedule: span {span:g}, sequential {sequential_span:g}", loc="left")
    axis.invert_yaxis()
    axis.legend(frameon=False, fontsize="small", loc="lower left")
    return figure


def _places(boundaries: Sequence[Any]) -> Callable[[float], float]:
    """Return the map from time to the number of the slice it falls in, fractions included."""
    times = np.array([float(t) for t in boundaries])
    sign = 1.0 if times[-1] > times[0] else -1.0
    return lambda t: float(np.interp(sign * float(t), sign * times, np.arange(len(times))))
