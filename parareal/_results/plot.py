"""Plots of convergence and of schedules. They need matplotlib, which the extra `plot` installs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parareal._results.history import Propagation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COARSE = "#b23a48"


def _create_figure(width: float, height: float, columns: int = 1) -> tuple["Figure", "np.ndarray"]:
    """Return a figure of a size in inches, and its axes in one row."""
    # Imported here because matplotlib is optional. `Figure` instead of pyplot, so that the caller's backend and
    # list of open figures stay as they are.
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib: install the extra parareal-torch[plot]") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns, sharey=True))


def _choose_color(iteration: int, iterations: int) -> tuple[float, float, float, float]:
    """Return the colour of an iteration, from dark for the first to light for the last."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * iteration / max(iterations, 1))


def plot_convergence(increments: np.ndarray, defects: np.ndarray) -> "Figure":
    """Plot the norms of increments and defects by boundary, of the worst sample, with one line per iteration.

    Args:
        increments: norms of shape (iterations, boundaries, samples), NaN where not computed.
        defects: norms of the same shape.
    """
    figure, axes = _create_figure(9, 3.6, columns=2)
    count = len(increments)
    for axis, name, table in zip(axes, ("increment", "defect"), (increments, defects), strict=True):
        for k in range(count):
            _plot_line(axis, table[k], f"iteration {k}", _choose_color(k, count))
        axis.set_yscale("log")
        axis.set_xlabel("boundary")
        axis.set_title(f"{name} (worst sample)")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("norm")
    axes[0].legend(frameon=False, fontsize="small")
    return figure


def _plot_line(axis: "Axes", rows: np.ndarray, label: str, color: tuple[float, float, float, float]) -> None:
    """Plot the largest norm over the samples at each boundary; `rows` has shape (boundaries, samples)."""
    present = ~np.isnan(rows).all(axis=1)
    if present.any():
        worst = np.nanmax(rows[present], axis=1)
        positive = worst > 0  # the axis is logarithmic
        x, y = np.flatnonzero(present)[positive], worst[positive]
        axis.plot(x, y, marker="o", ms=3.5, lw=1.4, color=color, label=label)


def plot_timeline(
    propagations: Sequence[Propagation], boundaries: Sequence[Any], span: float, sequential_span: float
) -> "Figure":
    """Plot each propagation of the first sample as a bar: its slice over evaluations on the critical path.

    With nested levels, the fine propagations of the innermost level are drawn within the outermost slices, and the
    coarse ones of all levels.

    Args:
        propagations: those of all samples.
        boundaries: of the outermost level.
        span: evaluations on the critical path, marked by a line.
        sequential_span: evaluations of the sequential solve, for the title.
    """
    slices = len(boundaries) - 1
    first_sample = [p for p in propagations if p.sample == 0]
    bars = len({(p.level, p.t0) for p in first_sample})
    figure, (axis,) = _create_figure(9, min(1.6 + max(0.16 * slices, 0.06 * bars), 9))
    innermost = max((p.level for p in first_sample), default=0)
    iterations = max((p.iteration for p in first_sample if p.level == innermost), default=0)
    position = _slice_position(boundaries)
    labels = set()
    for p in sorted(first_sample, key=lambda p: (p.kind, p.iteration)):
        coarse = p.kind == "coarse"
        if not coarse and p.level < innermost:
            continue  # its inner slices are drawn instead
        label = "coarse" if coarse else f"fine, iteration {p.iteration}"
        top, bottom = position(p.t0), position(p.t1)
        height = bottom - top
        axis.barh(
            top + (0.72 if coarse else 0.38) * height - 0.5,
            p.stop - p.start,
            left=p.start,
            height=(0.3 if coarse else 0.5) * height,
            color=_COARSE if coarse else _choose_color(p.iteration, iterations + 1),
            edgecolor="white",
            linewidth=0.0 if innermost else 0.4,
            label=None if label in labels else label,  # one entry of the legend per label
        )
        labels.add(label)
    axis.axvline(span, color="0.3", lw=1, ls="--")
    axis.set(xlabel="evaluations on the critical path", ylabel="slice", xlim=(0, None))
    axis.set_title(f"schedule: span {span:g}, sequential {sequential_span:g}", loc="left")
    axis.invert_yaxis()
    axis.legend(frameon=False, fontsize="small", loc="lower left")
    return figure


def _slice_position(boundaries: Sequence[Any]) -> Callable[[float], float]:
    """Return the map from a time to the number of its slice, with the fraction of the slice that lies before it."""
    times = np.array([float(t) for t in boundaries])
    sign = 1.0 if times[-1] > times[0] else -1.0  # `np.interp` needs rising abscissae
    return lambda t: float(np.interp(sign * float(t), sign * times, np.arange(len(times))))
