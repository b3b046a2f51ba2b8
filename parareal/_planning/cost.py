"""What a solve costs here, as the caller knows it: what `slices="auto"` plans by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import numpy as np

from parareal._checks import whole_number
from parareal._planning.batch_time import BatchTime
from parareal._planning.plan import Iterations, Plan, plan

LIKELY = 3
"""iterations where nobody says how many: what smooth problems make to tolerances of 1e-6, often (docs/odes.md)"""


@final
@dataclass(frozen=True)
class Cost:
    """What evaluations cost on this machine, and how many iterations to expect: what `slices="auto"` plans by.

    Args:
        batch_time: what a call of some rows takes: a `BatchTime` (`BatchTime.measured`), a mapping from rows to
            seconds, or None for one unit a call, whatever its rows. Plain functions are called for one row at a time.
        iterations: how many a solve makes, as for `plan`; None for the count of the criterion `Iterations`, and 3 for
            others.
        steps: the fine steps N between the two ends, where `fine` is a function; of `Steps` they are counted.
        devices, message_time, stages, coarse_stages: as for `simulate`. `devices` is 1 but for a pool.
        coarse_steps: steps of a coarse propagation; None for what `Steps` says, and 1 of a function.
        shared: whether F and G share the evaluation at the start of a slice; None to look whether they are `Steps`
            with one `evaluate`.

    Raises:
        ValueError, TypeError: for bad numbers, with a sentence that says what to change.
    """

    batch_time: BatchTime | Mapping[int, float] | None = None
    iterations: Iterations | None = None
    steps: int | None = None
    devices: int = 1
    message_time: float = 0.0
    stages: int = 1
    coarse_stages: int = 1
    coarse_steps: int | None = None
    shared: bool | None = None

    def __post_init__(self) -> None:
        BatchTime.of(self.batch_time)
        least = {"steps": 1, "devices": 1, "stages": 1, "coarse_stages": 0, "coarse_steps": 1}
        for name, smallest in least.items():
            if getattr(self, name) is not None:
                whole_number(f"Cost: {name}", getattr(self, name), smallest)
        if not self.message_time >= 0:
            raise ValueError(f"Cost: message_time must be seconds, 0 or more, got {self.message_time}")
        given = self.iterations
        if given is not None and not callable(given):
            numbers = list(given) if isinstance(given, Sequence | np.ndarray) else [given]
            for number in numbers:
                whole_number("Cost: iterations: a number", number, 0)
            if not numbers:
                raise ValueError(
                    "Cost: iterations must be a number, some numbers, or a function of the slices, got none"
                )


def planned(cost: Cost, steps: int, iterations: int | None, **setting: Any) -> Plan:
    """Return the plan for so many steps; each is made once in a process, for it takes some tenths of a second.

    `iterations` are those of the criterion, if it fixes them; `setting` says all that `cost` leaves open.
    """
    expected = next(x for x in (cost.iterations, iterations, LIKELY) if x is not None)
    hashable = expected if callable(expected) or isinstance(expected, int) else tuple(int(n) for n in expected)
    machine = {name: getattr(cost, name) for name in ("devices", "message_time", "stages", "coarse_stages")}
    return _made(steps, hashable, BatchTime.of(cost.batch_time), **machine, **setting)


@lru_cache
def _made(
    steps: int,
    iterations: Any,
    curve: BatchTime,
    *,
    schedule: str,
    window: int | None,
    max_batch: int | None,
    **cost: Any,
) -> Plan:
    only: dict[str, Any] = {"schedules": [schedule], "windows": [window], "max_batches": [max_batch]}
    return plan(steps, iterations=iterations, batch_time=curve, **only, **cost)
