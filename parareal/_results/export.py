"""Solutions as files: a trace for Perfetto, and a dictionary for torch."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optree
import torch

if TYPE_CHECKING:
    from parareal._results.history import Propagation
    from parareal._results.solution import Solution


def write(solution: "Solution", path: Path) -> None:
    """Write Chrome's trace event format: one process by the critical path, one by the clock, a thread a slice."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
        for pid, name in ((1, "critical path (1 evaluation = 1 ms)"), (2, "wall clock"))
    ]
    lanes = {lane: tid for tid, lane in enumerate(sorted({_lane(p) for p in solution.propagations}))}
    named = {_lane(p): _name(p) for p in solution.propagations}
    for lane, tid in lanes.items():
        name = {"name": named[lane]}
        events += [{"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": name} for pid in (1, 2)]
    for p in solution.propagations:
        events.append(_bar(p, 1, lanes[_lane(p)], p.start * 1e3, p.stop * 1e3))
        events.append(_bar(p, 2, lanes[_lane(p)], p.began * 1e6, p.ended * 1e6))
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


def _lane(p: "Propagation") -> tuple[int, int, float]:
    """Name a slice of a sample and level, such that sorted names stand in the order of time, rising or falling."""
    return (p.sample, p.level, float(p.t0) if p.t1 > p.t0 else -float(p.t0))


def _name(p: "Propagation") -> str:
    where = f"slice {p.slice:03}" if p.level == 0 else f"level {p.level}, from {float(p.t0):g} to {float(p.t1):g}"
    return where if p.sample == 0 else f"sample {p.sample}, {where}"


def _bar(p: "Propagation", pid: int, tid: int, start: float, stop: float) -> dict[str, Any]:
    names = {"name": f"{p.kind} {p.iteration}", "cat": p.kind, "ph": "X", "pid": pid, "tid": tid}
    return names | {"ts": start, "dur": stop - start, "args": {"iteration": p.iteration, "sample": p.sample}}


def save(solution: "Solution", path: Path) -> None:
    """Save states, figures and history with torch, as plain containers and tensors."""
    torch.save(
        {
            "final_state": _tensors(solution.final_state),
            "states": _tensors(solution.states),
            "boundaries": [float(t) for t in solution.boundaries],
            "outcome": solution.outcome.name,
            "message": solution.message,
            "iterations": solution.iterations,
            "slice_iterations": torch.from_numpy(solution.slice_iterations),
            "increments": torch.from_numpy(solution.increments),
            "defects": torch.from_numpy(solution.defects),
            "error_estimate": torch.from_numpy(solution.error_estimate),
            "stats": asdict(solution.stats),
        },
        path,
    )


def _tensors(state: Any) -> Any:

    return optree.tree_map(lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x, state)
