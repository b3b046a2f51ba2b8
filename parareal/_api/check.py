"""`check`: tests of the caller's propagators."""

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
from parareal._execution.choose import build_runner
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
    """The result of one test of `check`."""

    name: str
    """`"structure"`, `"deterministic"`, `"batched"` or `"from solution"`"""
    passed: bool
    message: str
    """`"passed"`, or the fault and its remedy"""


@final
@dataclass(frozen=True)
class Report:
    """The results of `check`. `ok` is True if all tests passed; `print(report)` shows one line per test."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every test passed."""
        return all(f.passed for f in self.findings)

    def __str__(self) -> str:
        """Return one line per test."""
        return "\n".join(f"{'ok  ' if f.passed else 'FAIL'} {f.name}: {f.message}" for f in self.findings)


def check(
    fine: Propagator, coarse: Propagator | None, initial: State, boundaries: Boundaries, *, batch_dims: int = 0
) -> Report:
    """Test whether propagators meet the requirements of `solve`.

    Four tests are run, all but the last on the first sample only. An exception of a propagator is reported, not
    raised. The cost is about two sequential solves.

    - `structure`: the result has the structure, shapes, dtypes and device of the state it was computed from.
    - `deterministic`: two calls with the same input agree bit by bit, and the input is not changed.
    - `batched`: the result of a row does not depend on the other rows of the batch, up to rounding. For vectorized
      functions and steppers.
    - `from solution`: started from the sequential solution, the iteration makes no increment. Skipped for a fine
      stepper with memory, because a guess holds states only.

    Args:
        fine: the fine propagator, as for `solve`; of nested levels, the innermost one is tested.
        coarse: the coarse propagator, as for `solve`; None to test the fine propagator only.
        initial: the state at the first boundary, as for `solve`.
        boundaries: the times that bound the slices, as for `solve`.
        batch_dims: 0 for the state of one sample, 1 if the leading axis of every array counts samples.

    Returns:
        A `Report` with one `Finding` per test.

    Raises:
        ValueError, TypeError: for arguments that `solve` would refuse before any work.

    Examples:
        `print(parareal.check(fine, coarse, u, times))`
    """
    # Of nested levels, the innermost fine propagator is tested, because all other fine propagators are solves by this
    # package. Coarse propagators of inner levels are not tested.
    fine, boundaries, _ = unroll(fine, check_boundaries(boundaries))
    correction = Zero() if coarse is None else None
    problem = Problem.create(fine, coarse, initial, boundaries, batch_dims, correction=correction)
    tests: list[tuple[str, Callable[[Problem], str]]] = [
        ("structure", _check_structure),
        ("deterministic", _check_determinism),
        ("batched", _check_batching),
        ("from solution", lambda p: _check_fixed_point(p, initial)),
    ]
    findings = []
    for name, test in tests:
        try:
            complaint = test(problem)
        except Exception as error:  # any fault of the caller's code belongs into the report
            complaint = f"{type(error).__name__}: {error}"
        findings.append(Finding(name, not complaint, complaint or "passed"))
    return Report(tuple(findings))


def _propagate(problem: Problem, kind: Kind, states: list[State], slices: list[int], together: bool) -> list[State]:
    """Return the states at the ends of several slices, for the first sample.

    Args:
        problem: the problem whose propagator runs.
        kind: which of its propagators.
        states: one state per slice, at its left boundary.
        slices: the numbers of different slices.
        together: whether all rows go into one batch; otherwise each runs alone.
    """
    times, ends = problem.boundaries, dict[int, State]()
    with closing(build_runner(problem, None if together else SerialExecutor())) as runner, torch.no_grad():
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
    """Return the propagators to test, each with its kind."""
    coarse = [] if problem.coarse is None else [(Kind.COARSE, problem.coarse)]
    return [(Kind.FINE, problem.fine), *coarse]


def _check_structure(problem: Problem) -> str:
    """Run each propagator once: the queue that runs it raises an error if the structure changes."""
    for kind, _ in _propagators(problem):
        _propagate(problem, kind, problem.samples[:1], [0], together=False)
    return ""


def _check_determinism(problem: Problem) -> str:
    """Compare two runs of each propagator on one input, and the input before and after."""
    start = problem.samples[0]
    for kind, _ in _propagators(problem):
        before = copy(start)
        first, second = (_propagate(problem, kind, [start], [0], together=False)[0] for _ in range(2))
        if not same(before, start):
            return f"{kind.value} changes its input: make it return a new state"
        if not same(first, second):
            return (
                f"{kind.value} returns two different results for one input: make it deterministic, for example by "
                "seeding its random numbers in every call"
            )
    return ""


def _check_batching(problem: Problem) -> str:
    """Compare the results of rows that run alone with those of the same rows in one batch."""
    norm = NORMS["rms"]
    for kind, propagator in _propagators(problem):
        if not isinstance(propagator, Vectorized | Steps):
            continue  # plain functions are never batched
        # The rows need different states and times, or a propagator that mixes up rows could go unnoticed.
        path = [problem.samples[0]]
        slices = list(range(min(problem.slices, 3)))
        for n in slices[:-1]:
            path.append(_propagate(problem, kind, path[-1:], [n], together=False)[0])
        alone, together = (_propagate(problem, kind, path, slices, together=t) for t in (False, True))
        for a, b in zip(alone, together, strict=True):
            # batched kernels may round differently; influence between rows is far above 1e4 units of rounding
            if norm(subtract(a, b)) > 1e4 * epsilon(problem.layout) * (norm(a) + norm(b)):
                return (
                    f"the result of {kind.value} for a row depends on the other rows of the batch: "
                    "make rows independent, and use t0 and t1 (start and stop) per row"
                )
    return ""


def _check_fixed_point(problem: Problem, initial: State) -> str:
    """Solve from the sequential solution as guess: a deterministic fine propagator makes no increment."""
    fine, coarse = problem.fine, problem.coarse
    if isinstance(fine, Steps) and fine.stepper.begin(stack(problem.samples[:1])) is not None:
        return ""  # a guess holds no memory, so a multistep method changes the states although they are exact
    # serial, because only unbatched execution is reproducible bit by bit
    options: dict[str, Any] = {"batch_dims": problem.batch_dims, "executor": SerialExecutor()}
    guess = sequential(fine, initial, problem.boundaries, **options).states
    options |= {"guess": guess, "criterion": Iterations(problem.slices), "correction": problem.correction}
    solution = solve(fine, coarse, initial, problem.boundaries, throw=False, **options)
    worst = np.nanmax(solution.increments[1:], initial=0.0)
    if not worst:
        return ""
    return (
        f"started from the sequential solution, iteration 1 makes an increment of {worst:.2g}: "
        "make fine deterministic, and let the result depend on its arguments only"
    )
