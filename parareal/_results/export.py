"""Solutions as files: a trace for Perfetto, and a dictionary for torch."""

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
    """Write Chrome's trace event format: one process by the critical path, one by the clock, one thread per slice."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
        for pid, name in ((1, "critical path (1 evaluation = 1 ms)"), (2, "wall clock"))
    ]
    lanes = {lane: tid for tid, lane in enumerate(sorted({_lane(p) for p in propagations}))}
    named = {_lane(p): _name(p) for p in propagations}
    for lane, tid in lanes.items():
        name = {"name": named[lane]}
        events += [{"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": name} for pid in (1, 2)]
    for p in propagations:
        events.append(_bar(p, 1, lanes[_lane(p)], p.start * 1e3, p.stop * 1e3))
        events.append(_bar(p, 2, lanes[_lane(p)], p.began * 1e6, p.ended * 1e6))
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


def _lane(p: Propagation) -> tuple[int, int, float]:
    """Name a slice of a sample and level, such that sorted names stand in the order of time, rising or falling."""
    return (p.sample, p.level, float(p.t0) if p.t1 > p.t0 else -float(p.t0))


def _name(p: Propagation) -> str:
    where = f"slice {p.slice:03}" if p.level == 0 else f"level {p.level}, from {float(p.t0):g} to {float(p.t1):g}"
    return where if p.sample == 0 else f"sample {p.sample}, {where}"


def _bar(p: Propagation, pid: int, tid: int, start: float, stop: float) -> dict[str, Any]:
    names = {"name": f"{p.kind} {p.iteration}", "cat": p.kind, "ph": "X", "pid": pid, "tid": tid}
    return names | {"ts": start, "dur": stop - start, "args": {"iteration": p.iteration, "sample": p.sample}}


def save(values: Mapping[str, Any], path: Path) -> None:
    """Save the fields of a solution with torch, as plain containers and tensors."""
    torch.save({name: _plain(name, value) for name, value in values.items()}, path)


def _plain(name: str, value: Any) -> Any:
    tree: Any = value
    if name == "boundaries":
        return [float(t) for t in value]
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return optree.tree_map(lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x, tree)
