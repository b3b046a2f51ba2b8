"""Four experiments on the caller's propagators: whether they are fit for `solve`."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from parareal._api.sequential import sequential
from parareal._api.solve import solve
from parareal._corrections.elementary import Zero
from parareal._criteria import Iterations
from parareal._execution.choose import runner_for
from parareal._execution.executors import SerialExecutor
from parareal._iteration.messages import Kind, Request, Value
from parareal._problem.boundaries import Boundaries, check_boundaries
from parareal._problem.levels import unroll
from parareal._problem.problem import Problem
from parareal._problem.propagators import Propagator, Steps, Vectorized
from parareal._state import NORMS, State, copy, epsilon, same, stack, subtract


@final
@dataclass(frozen=True)
class Finding:
    """The result of one experiment."""

    name: str
    passed: bool
    message: str


@final
@dataclass(frozen=True)
class Report:
    """The findings of `check`; `ok` is True where all passed. Printed, it has a line per experiment."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every experiment passed."""
        return all(f.passed for f in self.findings)

    def __str__(self) -> str:
        """Write one line per experiment."""
        return "\n".join(f"{'ok  ' if f.passed else 'FAIL'} {f.name}: {f.message}" for f in self.findings)


def check(
    fine: Propagator, coarse: Propagator | None, initial: State, boundaries: Boundaries, *, batch_dims: int = 0
) -> Report:
    """Test whether propagators are fit for `solve`; arguments as there. It makes one sequential solve on the way.

    Without a coarse propagator (None, for corrections that use none) only the fine one is tested.

    Four experiments: `deterministic` (two calls on one input agree bit by bit, and the input is left alone),
    `structure` (results are like the state that was given), `batched` (a row's result does not depend on the rows
    beside it, up to rounding), and `from solution` (started from the sequential solution, no increment is made).
    """
    fine, boundaries, _ = unroll(fine, check_boundaries(boundaries))  # of nested levels, the one that does the work
    correction = Zero() if coarse is None else None
    problem = Problem.checked(fine, coarse, initial, boundaries, batch_dims, correction=correction)
    experiments: list[tuple[str, Callable[[Problem], str]]] = [
        ("structure", _structure),
        ("deterministic", _deterministic),
        ("batched", _batched),
        ("from solution", lambda p: _from_solution(p, initial)),
    ]
    findings = []
    for name, experiment in experiments:
        try:
            complaint = experiment(problem)
        except Exception as error:  # whatever the caller's code raises is what the report is about
            complaint = f"{type(error).__name__}: {error}"
        findings.append(Finding(name, not complaint, complaint or "passed"))
    return Report(tuple(findings))


def _run(problem: Problem, kind: Kind, states: list[State], slices: list[int], together: bool) -> list[State]:
    """Propagate several states of the first sample, each on a slice of its own, in one batch or one by one."""
    times, ends = problem.boundaries, dict[int, State]()
    with closing(runner_for(problem, None if together else SerialExecutor())) as runner, torch.no_grad():
        runner.add(
            [
                Request(0, n, 0, kind, Value(0, u), times[n], times[n + 1], full_accuracy=True)
                for u, n in zip(states, slices, strict=True)
            ]
        )
        while len(ends) < len(states):
            ends.update({request.slice: result.state for request, result, _ in runner.tick()})
    return [ends[n] for n in slices]


def _propagators(problem: Problem) -> list[tuple[Kind, Propagator]]:
    coarse = [] if problem.coarse is None else [(Kind.COARSE, problem.coarse)]
    return [(Kind.FINE, problem.fine), *coarse]


def _structure(problem: Problem) -> str:
    for kind, _ in _propagators(problem):
        _run(problem, kind, problem.samples[:1], [0], together=False)
    return ""


def _deterministic(problem: Problem) -> str:
    start = problem.samples[0]
    for kind, _ in _propagators(problem):
        kept = copy(start)
        first, second = (_run(problem, kind, [start], [0], together=False)[0] for _ in range(2))
        if not same(kept, start):
            return f"{kind.value} changes the state it is given: make it return a new one"
        if not same(first, second):
            return f"{kind.value} gives two results for one input: fix its random numbers"
    return ""


def _batched(problem: Problem) -> str:
    norm = NORMS["rms"]
    for kind, propagator in _propagators(problem):
        if not isinstance(propagator, Vectorized | Steps):
            continue
        path = [problem.samples[0]]
        slices = list(range(min(problem.slices, 3)))
        for n in slices[:-1]:
            path.append(_run(problem, kind, path[-1:], [n], together=False)[0])
        alone, together = (_run(problem, kind, path, slices, together=t) for t in (False, True))
        for a, b in zip(alone, together, strict=True):
            if norm(subtract(a, b)) > 1e4 * epsilon(problem.layout) * (norm(a) + norm(b)):
                return (
                    f"{kind.value} gives a row another result beside other rows than alone: "
                    "let rows not influence each other, and use t0 and t1 (start and stop) row by row"
                )
    return ""


def _from_solution(problem: Problem, initial: State) -> str:
    fine, coarse = problem.fine, problem.coarse
    if isinstance(fine, Steps) and fine.stepper.begin(stack(problem.samples[:1])) is not None:
        return ""  # a guess holds states only, so a method that remembers more must correct it
    options: dict[str, Any] = {"batch_dims": problem.batch_dims, "executor": SerialExecutor()}
    guess = sequential(fine, initial, problem.boundaries, **options).states
    options |= {"guess": guess, "criterion": Iterations(problem.slices), "correction": problem.correction}
    solution = solve(fine, coarse, initial, problem.boundaries, throw=False, **options)
    worst = np.nanmax(solution.increments[1:], initial=0.0)
    return f"started from the sequential solution, iteration 1 still changes a boundary by {worst:.2g}" if worst else ""
