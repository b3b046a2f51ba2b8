"""Solutions as files: a trace of the schedule, and a dictionary of tensors."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import optree
import torch

from parareal._results.history import Propagation


def write_trace(propagations: Sequence[Propagation], path: Path) -> None:
    """Write propagations in Chrome's trace event format.

    The format knows processes and threads. Process 1 shows the critical path with unlimited devices, process 2 the
    wall clock; both have one thread per slice.
    """
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
        for pid, name in ((1, "critical path (1 evaluation = 1 ms)"), (2, "wall clock"))
    ]
    # viewers order threads by their numbers, so numbers follow the sort key
    threads = {key: tid for tid, key in enumerate(sorted({_thread_key(p) for p in propagations}))}
    names = {_thread_key(p): _thread_name(p) for p in propagations}
    for key, tid in threads.items():
        name = {"name": names[key]}
        events += [{"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": name} for pid in (1, 2)]
    for p in propagations:
        # times of the format are microseconds: one evaluation is shown as one millisecond
        events.append(_build_bar(p, 1, threads[_thread_key(p)], p.start * 1e3, p.stop * 1e3))
        events.append(_build_bar(p, 2, threads[_thread_key(p)], p.start_time * 1e6, p.end_time * 1e6))
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


def _thread_key(p: Propagation) -> tuple[int, int, float]:
    """Return a key per sample, level and slice that sorts slices in the direction of integration."""
    return (p.sample, p.level, float(p.t0) if p.t1 > p.t0 else -float(p.t0))


def _thread_name(p: Propagation) -> str:
    """Return the label of the slice that a propagation crosses."""
    # slice numbers of inner levels repeat in every outer slice, so the interval names those
    place = f"slice {p.slice:03}" if p.level == 0 else f"level {p.level}, from {float(p.t0):g} to {float(p.t1):g}"
    return place if p.sample == 0 else f"sample {p.sample}, {place}"


def _build_bar(p: Propagation, pid: int, tid: int, start: float, stop: float) -> dict[str, Any]:
    """Return the event of one propagation; `start` and `stop` are microseconds."""
    names = {"name": f"{p.kind} {p.iteration}", "cat": p.kind, "ph": "X", "pid": pid, "tid": tid}
    return names | {"ts": start, "dur": stop - start, "args": {"iteration": p.iteration, "sample": p.sample}}


def save(values: Mapping[str, Any], path: Path) -> None:
    """Save the fields of a solution with `torch.save`, as plain containers and tensors."""
    torch.save({name: _to_plain(name, value) for name, value in values.items()}, path)


def _to_plain(name: str, value: Any) -> Any:
    """Return a field in types that `torch.load(weights_only=True)` accepts: no enum, dataclass or NumPy array."""
    tree: Any = value
    if name == "boundaries":
        return [float(t) for t in value]
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {field: _to_plain(field, x) for field, x in asdict(value).items()}
    return optree.tree_map(lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x, tree)
