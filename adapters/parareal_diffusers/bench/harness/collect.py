"""Running everything, one sample at a time; what is done is kept in a folder, and a run goes on where it ended."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from tqdm.auto import tqdm

from parareal_diffusers.bench.cases.memory import Remembering
from parareal_diffusers.bench.cases.problems import COSTLY, CPU, PROBLEMS, Problem
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target
from parareal_diffusers.bench.harness.methods import METHODS, BenchMethod
from parareal_diffusers.testing import scheduler_loop

MOST_WIDE = 196
"""steps above which windows over all of them are left to cheap networks"""


class Where(NamedTuple):
    """A table: of one problem with one number of steps."""

    problem: str
    steps: int


@final
@dataclass(frozen=True)
class Found:
    """What a method did, by sample and by rule to stop: its iterates."""

    method: BenchMethod
    runs: dict[tuple[int, Stop], list[Iterate]] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Store:
    """A folder with a file for each problem, number of steps and method."""

    folder: Path

    def path(self, where: Where, name: str) -> Path:
        """Return where something is kept."""
        safe = "".join(c if c.isalnum() else "-" for c in name)
        return self.folder / where.problem / str(where.steps) / safe

    def load(self, where: Where, method: BenchMethod) -> Found:
        """Return what is there of a method with its present settings."""
        path = self.path(where, method.name).with_suffix(".json")
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("settings") != str(method.settings(where.steps)):
            return Found(method)
        runs = {}
        for sample, rule, tolerance, iterates in kept["runs"]:
            runs[sample, Stop(rule, tolerance)] = [Iterate(*numbers) for numbers in iterates]
        return Found(method, runs)

    def save(self, where: Where, found: Found) -> None:
        """Keep what is known of a method."""
        runs = [[i, s.rule, s.tolerance, [astuple(x) for x in xs]] for (i, s), xs in found.runs.items()]
        text = json.dumps({"settings": str(found.method.settings(where.steps)), "runs": runs})
        _replace(self.path(where, found.method.name).with_suffix(".json"), text.encode())

    def reference(self, where: Where, problem: Problem) -> Tensor:
        """Return the sequential final states of a problem's samples, by the unmodified scheduler's loop, on the CPU."""
        path = self.path(where, "sequential").with_suffix(".pt")
        if path.exists() and len(kept := torch.load(path)) >= problem.samples:
            return kept[: problem.samples]
        scheduler = problem.scheduler_for(where.steps)
        found = scheduler_loop(problem.network(where.steps), problem.latents, scheduler, where.steps).cpu()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, path)
        return found

    def note(self, name: str, entry: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what a file of notes has, after an entry is added."""
        path = self.folder / f"{name}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        if entry:
            _replace(path, json.dumps(kept | entry).encode())
        return kept | (entry or {})


def remembered(problem: Problem) -> Problem:
    """Return a problem of one sample whose network, if it is a module, makes no evaluation twice."""
    if not isinstance(problem.model, torch.nn.Module):
        return problem
    return replace(problem, model=Remembering(problem.model))


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


@final
@dataclass(frozen=True)
class Choice:
    """What is to be run."""

    problems: Sequence[str]
    steps: Sequence[int]
    methods: Sequence[str]
    samples: int
    tolerances: Sequence[float]
    device: torch.device = CPU

    def problem(self, name: str) -> Problem:
        """Return a problem with as many samples, on the device."""
        return PROBLEMS[name](self.samples).on(self.device)

    def tables(self) -> Iterable[Where]:
        """Return the tables, cheap ones first."""
        return [Where(problem, steps) for problem in self.problems for steps in sorted(self.steps)]

    def chosen(self, where: Where) -> list[BenchMethod]:
        """Return the methods of a table; those with a window over all steps not where many steps are costly."""
        spared = where.steps > MOST_WIDE and where.problem in COSTLY
        methods = [METHODS[name] for name in self.methods]
        return [m for m in methods if m.settings(where.steps) is not None and not (m.wide and spared)]


def collect(choice: Choice, store: Store, run: bool = True) -> dict[Where, list[Found]]:
    """Return what all methods did, from the store where it is there; else run them, or with `run=False` leave it out.

    Samples come in the outer loop, so that a run that is broken off has some of them complete.
    """
    jobs = [
        (where, sample, method, stop)
        for where in choice.tables()
        for sample in range(choice.samples)
        for method in choice.chosen(where)
        for stop in method.stops(choice.tolerances)
    ]
    found = {w: {m.name: store.load(w, m) for m in choice.chosen(w)} for w in choice.tables()}
    todo = [job for job in jobs if run and job[1:2] + job[3:] not in found[job[0]][job[2].name].runs]
    with tqdm(total=len(todo), unit="run", disable=not todo) as bar:
        for (where, sample), group in groupby(todo, key=lambda job: job[:2]):
            problem = choice.problem(where.problem)
            target = Target(store.reference(where, problem)[sample : sample + 1])
            one = remembered(problem.sample(sample))
            for _, _, method, stop in group:
                bar.set_description(f"{where.problem}, {where.steps} steps, {sample}, {method.name}", refresh=False)
                mine = found[where][method.name]
                mine.runs[sample, stop] = list(method.run(one, where.steps, target, stop))
                store.save(where, mine)
                bar.update()
    return {where: list(methods.values()) for where, methods in found.items()}
