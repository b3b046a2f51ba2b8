"""The report of the demo: a table, strips of images, a convergence plot, timelines and a trace."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from parareal import Solution
from parareal_diffusers.testing import relative_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AMPLIFICATION = 20
"""the factor of the difference shown at the end of a strip"""


@dataclass
class DemoMethod:
    """One method of sampling the images, with its results and its time."""

    name: str
    options: dict[str, Any] | None
    """keyword arguments of `sample`; None for the scheduler's own loop"""
    solutions: list[Solution] = field(default_factory=list)
    """one per image; empty for the scheduler's own loop"""
    images: list[Tensor] = field(default_factory=list)
    """each of shape (1, 1, height, width), on [-1, 1]"""
    iterates: list[list[Tensor]] = field(default_factory=list)
    """per image: the coarse prediction and the iterates after it"""
    seconds: float = 0.0
    """wall time of all images"""


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """Return a Markdown table of rows with equal keys, its columns padded to line up in a terminal."""
    heads = list(rows[0])
    widths = [max(len(h), *(len(row[h]) for row in rows)) for h in heads]
    lines = [heads, ["-" * w for w in widths], *([row[h] for h in heads] for row in rows)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines
    )


def write(
    out: Path, methods: list[DemoMethod], rows: list[dict[str, str]], about: str, names: Sequence[str]
) -> list[Path]:
    """Write the report and return its files.

    Args:
        out: the folder, which exists.
        methods: the sequential method first, the best one last.
        rows: the rows of the table.
        about: the legend of the table.
        names: one per image, for the names of files.
    """
    files = []

    def save(figure: "Figure", name: str) -> None:
        files.append(out / name)
        figure.savefig(out / name, dpi=110)

    references = methods[0].images
    for i, (name, reference) in enumerate(zip(names, references, strict=True)):
        parallel = [(m.name, m.iterates[i]) for m in methods[1:]]
        save(strip(parallel, reference), f"strip-{i}-{name.replace(' ', '-').lower()}.png")
    best = methods[-1].solutions[0]
    save(best.plot(), "convergence.png")
    save(best.timeline(), "timeline.png")
    save(methods[1].solutions[0].timeline(), "timeline-srds.png")
    best.trace(out / "trace.json")
    strips = "\n\n".join(f"![{f.stem}]({f.name})" for f in files[: len(names)])
    plots = "\n\n".join(f"![{f.stem}]({f.name})" for f in files[len(names) :])
    page = (
        f"# Report\n\n{markdown(rows)}\n\n{about}\n\n## Images\n\nFrom left to right: the coarse prediction, the "
        "iterates, the sequential image, and the difference between the last iterate and the sequential image, "
        f"amplified {AMPLIFICATION} times. The numbers are relative errors.\n\n{strips}\n\n"
        "## Convergence and schedule of the first image\n\nOpen `trace.json` in Perfetto (ui.perfetto.dev).\n\n"
        f"{plots}\n"
    )
    files += [out / "trace.json", out / "report.md"]
    files[-1].write_text(page)
    return files


def strip(methods: Sequence[tuple[str, list[Tensor]]], reference: Tensor) -> "Figure":
    """Return a figure with one row per method: the coarse prediction, its iterates, the sequential image, the error.

    Args:
        methods: name and iterates of each method.
        reference: the sequential image, of shape (1, 1, height, width).
    """
    from matplotlib.figure import Figure  # an optional dependency, which takes long to import

    columns = max(len(iterates) for _, iterates in methods) + 2
    figure = Figure(figsize=(1.25 * columns + 1.1, 1.55 * len(methods)), layout="constrained")
    axes = figure.subplots(len(methods), columns, squeeze=False)
    for row, (name, iterates) in zip(axes, methods, strict=True):
        for axis in row:
            axis.axis("off")
        for k, (axis, image) in enumerate(zip(row, iterates, strict=False)):  # a row may have fewer iterates
            title = "coarse prediction" if k == 0 else f"iteration {k}"
            _show(axis, image, f"{title}\n{relative_error(image, reference):.0e}")
        _show(row[-2], reference, "sequential\n")
        _show(row[-1], AMPLIFICATION * (iterates[-1] - reference), f"difference\nx {AMPLIFICATION}")
        row[0].text(
            -0.1,
            0.5,
            name.replace(", ", ",\n").replace(" as ", "\nas "),
            transform=row[0].transAxes,
            ha="right",
            va="center",
            fontsize=8,
        )
    return figure


def _show(axis: "Axes", image: Tensor, title: str) -> None:
    axis.imshow(image[0, 0], cmap="gray", vmin=-1, vmax=1)
    axis.set_title(title, fontsize=8)
