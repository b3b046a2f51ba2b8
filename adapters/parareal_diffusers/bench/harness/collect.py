"""Runs of all methods, one sample at a time, stored in a folder so that an interrupted comparison can go on."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from tqdm.auto import tqdm

from parareal_diffusers.bench.cases.memory import CachingNetwork
from parareal_diffusers.bench.cases.problems import COSTLY, CPU, PROBLEMS, BenchProblem
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target
from parareal_diffusers.bench.harness.methods import METHODS, BenchMethod
from parareal_diffusers.testing import scheduler_loop

MAX_STEPS_WIDE = 196
"""the largest number of steps for which a window over all steps is affordable on a costly problem"""


class TableKey(NamedTuple):
    """The problem and the number of steps that one table is about."""

    problem: str
    steps: int


@final
@dataclass(frozen=True)
class MethodRuns:
    """The iterates of one method, by sample and stop rule."""

    method: BenchMethod
    runs: dict[tuple[int, Stop], list[Iterate]] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class RunStore:
    """A folder with one JSON file per problem, number of steps and method."""

    folder: Path

    def path(self, key: TableKey, name: str) -> Path:
        """Return the path of a file in the table's folder, without its suffix."""
        # Method names have commas and spaces.
        safe = "".join(c if c.isalnum() else "-" for c in name)
        return self.folder / key.problem / str(key.steps) / safe

    def load(self, key: TableKey, method: BenchMethod) -> MethodRuns:
        """Return the stored runs of a method with its present settings; runs with other settings are ignored."""
        path = self.path(key, method.name).with_suffix(".json")
        content = json.loads(path.read_text()) if path.exists() else {}
        if content.get("settings") != str(method.settings(key.steps)):
            return MethodRuns(method)
        # JSON has no tuples as keys, so runs are a list of sample, rule, tolerance and iterates.
        runs = {}
        for sample, rule, tolerance, iterates in content["runs"]:
            runs[sample, Stop(rule, tolerance)] = [Iterate(*numbers) for numbers in iterates]
        return MethodRuns(method, runs)

    def save(self, key: TableKey, result: MethodRuns) -> None:
        """Store all runs of a method."""
        runs = [[i, s.rule, s.tolerance, [astuple(x) for x in xs]] for (i, s), xs in result.runs.items()]
        text = json.dumps({"settings": str(result.method.settings(key.steps)), "runs": runs})
        _write_atomically(self.path(key, result.method.name).with_suffix(".json"), text.encode())

    def reference(self, key: TableKey, problem: BenchProblem) -> Tensor:
        """Return the sequential final states of a problem's samples, on the CPU, shape (samples, *sample).

        They come from the loop over the unmodified scheduler, and are computed again if the file has fewer samples.
        """
        path = self.path(key, "sequential").with_suffix(".pt")
        if path.exists() and len(states := torch.load(path)) >= problem.samples:
            return states[: problem.samples]
        scheduler = problem.scheduler_for(key.steps)
        states = scheduler_loop(problem.build_network(key.steps), problem.latents, scheduler, key.steps).cpu()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(states, path)
        return states

    def update_notes(self, name: str, entries: dict[str, Any] | None = None) -> dict[str, Any]:
        """Add entries to a file of notes, and return its content."""
        path = self.folder / f"{name}.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        if entries:
            _write_atomically(path, json.dumps(content | entries).encode())
        return content | (entries or {})


def cache_evaluations(problem: BenchProblem) -> BenchProblem:
    """Return the problem with a network that makes no evaluation twice; a model that is no module stays as it is."""
    if not isinstance(problem.model, torch.nn.Module):
        return problem
    return replace(problem, model=CachingNetwork(problem.model))


def _write_atomically(path: Path, content: bytes) -> None:
    """Write a file such that an interrupted run leaves either the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


@final
@dataclass(frozen=True)
class RunSelection:
    """The problems, numbers of steps, methods, samples and tolerances to run."""

    problems: Sequence[str]
    steps: Sequence[int]
    methods: Sequence[str]
    samples: int
    tolerances: Sequence[float]
    device: torch.device = CPU

    def build_problem(self, name: str) -> BenchProblem:
        """Return a problem with the selected number of samples, on the device."""
        return PROBLEMS[name](self.samples).to(self.device)

    def list_tables(self) -> Iterable[TableKey]:
        """Return the tables, by rising number of steps within each problem."""
        return [TableKey(problem, steps) for problem in self.problems for steps in sorted(self.steps)]

    def methods_of(self, key: TableKey) -> list[BenchMethod]:
        """Return the methods of a table.

        Windows over all steps are left out where both the steps are many and the network is costly.
        """
        too_costly = key.steps > MAX_STEPS_WIDE and key.problem in COSTLY
        methods = [METHODS[name] for name in self.methods]
        return [m for m in methods if m.settings(key.steps) is not None and not (m.wide and too_costly)]


def collect(selection: RunSelection, store: RunStore, run: bool = True) -> dict[TableKey, list[MethodRuns]]:
    """Return the runs of all methods from the store; with `run=True`, first make those that are missing."""
    # Methods are the inner loop and samples the outer one, so that an interrupted comparison has some samples complete.
    jobs = [
        (key, sample, method, stop)
        for key in selection.list_tables()
        for sample in range(selection.samples)
        for method in selection.methods_of(key)
        for stop in method.stops(selection.tolerances)
    ]
    results = {k: {m.name: store.load(k, m) for m in selection.methods_of(k)} for k in selection.list_tables()}
    missing = [job for job in jobs if run and job[1:2] + job[3:] not in results[job[0]][job[2].name].runs]
    with tqdm(total=len(missing), unit="run", disable=not missing) as bar:
        for (key, sample), group in groupby(missing, key=lambda job: job[:2]):
            problem = selection.build_problem(key.problem)
            target = Target(store.reference(key, problem)[sample : sample + 1])
            # All methods of a sample share one cache, which is discarded with the sample.
            single = cache_evaluations(problem.select_sample(sample))
            for _, _, method, stop in group:
                bar.set_description(f"{key.problem}, {key.steps} steps, {sample}, {method.name}", refresh=False)
                result = results[key][method.name]
                result.runs[sample, stop] = list(method.run(single, key.steps, target, stop))
                store.save(key, result)  # after every run, so that an interruption loses at most one
                bar.update()
    return {key: list(methods.values()) for key, methods in results.items()}
