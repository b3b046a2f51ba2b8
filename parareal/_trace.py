"""Solutions as files: a trace for Perfetto, and a dictionary for torch."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optree
import torch

if TYPE_CHECKING:
    from parareal._history import Propagation
    from parareal._solution import Solution


def write(solution: "Solution", path: Path) -> None:
    """Write Chrome's trace event format: one process by the critical path, one by the clock, a thread a slice."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
        for pid, name in ((1, "critical path (1 evaluation = 1 ms)"), (2, "wall clock"))
    ]
    lanes = sorted({(p.slice, p.sample) for p in solution.propagations})
    slices = len(solution.slice_iterations)
    for n, sample in lanes:
        name = {"name": f"slice {n:03}" if sample == 0 else f"sample {sample}, slice {n:03}"}
        events += [
            {"ph": "M", "name": "thread_name", "pid": p, "tid": sample * slices + n, "args": name} for p in (1, 2)
        ]
    for p in solution.propagations:
        events.append(_bar(p, 1, p.sample * slices + p.slice, p.start * 1e3, p.stop * 1e3))
        events.append(_bar(p, 2, p.sample * slices + p.slice, p.began * 1e6, p.ended * 1e6))
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


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
