"""A progress bar that counts what really happens: boundaries that have become final."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan

from tqdm.auto import tqdm

from parareal._run.loop import Run

INTERVAL = 0.1
"""seconds between two looks at all boundaries, which would otherwise cost more than a tick"""


@contextmanager
def bar(run: Run, show: bool) -> Iterator[None]:
    """Show a bar while a run goes on: its iteration, the worst increment, and the boundaries left."""
    if not show:
        yield
        return
    summary = run.summary
    total, looked = summary.boundaries_left(), -INTERVAL
    with tqdm(total=total, unit="boundary", desc="parareal") as progress:

        def update() -> None:
            iteration, left = summary.newest_iteration(), summary.boundaries_left()
            worst = run.history.worst_increment(iteration)
            progress.n = total - left
            increment = "-" if isnan(worst) else f"{worst:.1e}"
            progress.set_postfix(iteration=iteration, increment=increment, left=left, refresh=False)
            progress.update(0)

        def watch() -> None:
            nonlocal looked
            if time.monotonic() - looked >= INTERVAL:
                looked = time.monotonic()
                update()

        run.watch = watch
        yield
        update()
