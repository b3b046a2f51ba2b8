"""How many slices a solve takes: as many as the caller says, or as are planned by what they cost."""

from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from parareal._checks import one_of, whole_number
from parareal._execution.executors import SerialExecutor
from parareal._iteration.messages import Kind
from parareal._planning.cost import Cost, planned
from parareal._problem.boundaries import edges
from parareal._problem.levels import Parareal, whole
from parareal._problem.problem import Problem
from parareal._problem.propagators import Propagator, Steps, Vectorized
from parareal._run.loop import Options


def check_slices(slices: Any, cost: Any, levels: Any, guess: Any, boundaries: int) -> None:
    """Raise `ValueError` or `TypeError` for keywords that do not go together, and with so many boundaries."""
    if slices is None:
        if cost is not None:
            raise ValueError("cost is what slices='auto' plans by: pass slices='auto' too, or leave cost out")
        return
    if levels is not None:
        raise ValueError(f"levels={levels!r} already says how many slices there are: leave slices={slices!r} out")
    if boundaries > 2:
        raise ValueError(
            f"slices={slices!r} divides the interval between two ends, but boundaries has {boundaries} numbers: give "
            "the first and the last, or leave slices out"
        )
    if not isinstance(slices, str):
        whole_number("slices", slices, 1)
        if cost is not None:
            raise ValueError(f"cost is what slices='auto' plans by, and slices={slices!r} is a number: leave cost out")
        return
    one_of("slices (or a whole number)", slices, ("auto",))
    if cost is None:
        raise ValueError(
            "slices='auto' plans by what evaluations cost here: pass cost=parareal.Cost(batch_time={1: 1.0, 8: 3.0}, "
            "iterations=2), or a number of slices"
        )
    if not isinstance(cost, Cost):
        raise TypeError(f"cost must be a parareal.Cost, not {type(cost).__name__}")
    if guess is not None:
        raise ValueError("guess has a state for each boundary, which slices='auto' has yet to choose: pass a number")


def divided_evenly(problem: Problem, slices: int, steps: int | None = None) -> Problem:
    """Return a problem, of which the two ends are given, with so many slices; of `steps`, whole steps each."""
    start, stop = problem.boundaries
    if any(whole(p) for p in problem.propagators.values()):
        nodes = abs(int(stop) - int(start))
        if slices > nodes:
            raise ValueError(f"slices must be at most the {nodes} steps between the two ends, got {slices}")
        return replace(problem, boundaries=edges(start, stop, slices, whole=True))
    if steps is None:
        return replace(problem, boundaries=edges(start, stop, slices, whole=False))
    inner = edges(0, steps, slices, whole=True)[1:-1]
    return replace(problem, boundaries=[start, *(start + (stop - start) * n / steps for n in inner), stop])


def divided_by_plan(problem: Problem, cost: Cost, options: Options) -> tuple[Problem, Options, bool]:
    """Return a problem cut into as many slices as pay, how to solve it, and whether slices pay at all.

    Raises:
        ValueError: where it cannot be known how many steps there are.
    """
    fine, coarse = problem.propagators[Kind.FINE], problem.propagators[Kind.COARSE]
    steps = _steps(problem, fine, coarse, cost)
    advice = planned(
        cost,
        steps,
        None if options.criterion is None else options.criterion.last_iteration,
        schedule=options.schedule,
        window=options.window,
        max_batch=_most(fine, options.executor),
        samples=len(problem.samples),
        coarse_steps=_coarse_steps(coarse, steps, cost),
        shared=_shared(fine, coarse) if cost.shared is None else cost.shared,
    )
    eager = advice.eager if options.eager is None else options.eager
    return divided_evenly(problem, advice.slices, steps), replace(options, eager=eager), advice.worthwhile


def _steps(problem: Problem, fine: Propagator, coarse: Propagator, cost: Cost) -> int:
    if any(isinstance(p, Parareal) for p in (fine, coarse)):
        raise ValueError("slices='auto' plans one level: pass boundaries for propagators that are Parareal, or levels")
    if not isinstance(fine, Steps):
        if cost.steps is None:
            raise ValueError("nobody can count the steps of a function: pass cost=parareal.Cost(steps=...) for fine")
        return cost.steps
    if fine.steps is not None:
        raise ValueError(
            f"fine takes {fine.steps} steps a slice, so that its answer depends on how many slices there are: use "
            "parareal.Steps(stepper), which goes through every node, or pass a number of slices"
        )
    nodes = abs(int(problem.boundaries[-1]) - int(problem.boundaries[0]))
    if cost.steps not in (None, nodes):
        raise ValueError(f"cost: steps={cost.steps}, but there are {nodes} between the two ends: leave steps out")
    return nodes


def _coarse_steps(coarse: Propagator, steps: int, cost: Cost) -> int:
    if cost.coarse_steps is not None:
        return cost.coarse_steps
    return (coarse.steps or steps) if isinstance(coarse, Steps) else 1


def _shared(fine: Propagator, coarse: Propagator) -> bool:
    return isinstance(fine, Steps) and isinstance(coarse, Steps) and fine.stepper.evaluate == coarse.stepper.evaluate


def _most(fine: Propagator, executor: Any) -> int | None:
    """Return how many rows a call takes: plain functions take one."""
    if isinstance(executor, Executor | SerialExecutor) or not isinstance(fine, Steps | Vectorized):
        return 1
    return getattr(executor, "max_batch", None)
