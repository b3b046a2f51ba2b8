"""A progress bar that counts boundaries as they become final."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan

from tqdm.auto import tqdm

from parareal._run.loop import Run

INTERVAL = 0.1
"""seconds between two counts of the boundaries, because a count looks at all of them and costs more than a tick"""


@contextmanager
def show_bar(run: Run, show: bool) -> Iterator[None]:
    """Show a bar during a run: its iteration, the largest increment, and the number of boundaries left."""
    if not show:
        yield
        return
    summary = run.summary
    total, update_time = summary.boundaries_left(), -INTERVAL
    with tqdm(total=total, unit="boundary", desc="parareal") as progress:

        def update() -> None:
            iteration, left = summary.newest_iteration(), summary.boundaries_left()
            worst = run.history.worst_increment(iteration)
            # Set, not incremented: one tick may make many boundaries final.
            progress.n = total - left
            increment = "-" if isnan(worst) else f"{worst:.1e}"
            progress.set_postfix(iteration=iteration, increment=increment, left=left, refresh=False)
            progress.update(0)

        def watch() -> None:
            nonlocal update_time
            if time.monotonic() - update_time >= INTERVAL:
                update_time = time.monotonic()
                update()

        run.tick_callback = watch
        yield
        update()  # the last ticks may have come within one interval
