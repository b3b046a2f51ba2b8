"""A progress bar that counts what really happens: boundaries that have become final."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan

from tqdm.auto import tqdm

from parareal._run.loop import Run


@contextmanager
def bar(run: Run, show: bool) -> Iterator[None]:
    """Show a bar while a run goes on: its iteration, the worst increment, and the boundaries left."""
    total = run.boundaries_left()
    with tqdm(total=total, unit="boundary", desc="parareal", disable=not show) as progress:

        def update() -> None:
            iteration = run.newest_iteration()
            progress.n = total - run.boundaries_left()
            worst = run.history.worst_increment(iteration)
            progress.set_postfix(
                iteration=iteration,
                increment="-" if isnan(worst) else f"{worst:.1e}",
                left=total - progress.n,
                refresh=False,
            )
            progress.update(0)

        if show:
            run.watch = update
        yield
        if show:
            update()
