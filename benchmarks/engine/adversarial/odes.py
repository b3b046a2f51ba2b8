"""Runs of the engine on drawn ODEs, each judged in the scale of its criterion."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from parareal_torchdiffeq._methods import METHODS, RungeKuttaMethod

import parareal
from benchmarks.engine.adversarial.families import FAMILIES, Equation

Array = np.ndarray
METHOD_NAMES = list(METHODS)
CRITERIA: dict[str, Callable[[float], parareal.AbstractCriterion]] = {
    "Tolerance": parareal.Tolerance,
    "Tolerance, worst_increment": lambda rtol: parareal.Tolerance(rtol, parareal.worst_increment),
    "Tolerance, scaled": lambda rtol: parareal.Tolerance(rtol, norm="scaled"),
    "Increment": parareal.Increment,
    "Increment, scaled": lambda rtol: parareal.Increment(rtol, norm="scaled"),
    "Defect": parareal.Defect,
}
EPSILON = float(np.finfo(float).eps)
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-6)


@dataclass(frozen=True)
class EquationCase:
    """A drawn equation with its method, slices and tolerance."""

    family: str
    equation: Equation = field(repr=False)
    fine: str
    coarse: str
    slices: int
    steps: int
    """steps of F per slice"""
    tolerance: float


@dataclass(frozen=True)
class EquationVerdict:
    """The end of one run."""

    family: str
    """name of the family of the equation"""
    label: str
    """the case in words"""
    criterion: str
    outcome: str
    iterations: int
    ratio: float
    """error in the scale of the criterion over its tolerance; above 1, more was said than was true"""
    oracle: int
    """first iteration whose final state is within the tolerance"""


def draw_case(seed: int) -> EquationCase:
    """Return the case of a seed; the families take turns."""
    draw = np.random.default_rng(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    slices, steps = int(draw.integers(4, 49)), int(draw.integers(3, 25))
    fine = METHOD_NAMES[draw.integers(len(METHOD_NAMES))]
    # methods are listed by rising order, and G's order does not exceed F's
    coarse = METHOD_NAMES[draw.integers(METHOD_NAMES.index(fine) + 1)] if draw.random() < 0.5 else fine
    equation, tolerance = family(draw, slices), float(draw.choice(TOLERANCES))
    steps = max(steps, math.ceil(equation.end / equation.longest_step / slices))
    return EquationCase(family.__name__, equation, fine, coarse, slices, steps, tolerance)


def build_steppers(case: EquationCase) -> tuple[RungeKuttaMethod, RungeKuttaMethod]:
    """Return the fine and the coarse stepper of a case; they share evaluations."""
    times = np.linspace(0.0, case.equation.end, case.slices * case.steps + 1)
    fine = METHODS[case.fine](case.equation.rhs, times, np.dtype(float), False)
    coarse = METHODS[case.coarse](fine.evaluate, times, np.dtype(float), False)
    return fine, coarse.with_embedded()


def propagate(fine: RungeKuttaMethod, states: Array, steps: int) -> Array:
    """Return F of the state at each boundary: states of shape (slices, d), slices of `steps` steps."""
    start = np.arange(len(states)) * steps
    for step in range(steps):
        routine, value = fine.step(states, None, start + step, start + step + 1), None
        try:
            while True:
                value = fine.evaluate(*routine.send(value))
        except StopIteration as end:
            states = end.value[0]
    return states


def rms(x: Array) -> Array:
    """Return the root mean square over the last axis. Not by the engine's norm, which is among the things judged."""
    largest = np.abs(x).max(axis=-1, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0)
    return np.sqrt((np.abs(x / scale) ** 2).mean(axis=-1)) * scale[..., 0]


def relative_error(state: Array, reference: Array) -> float:
    """Return the RMS of the difference over the RMS of the reference; infinite if that is zero and they differ."""
    error, size = float(rms(state - reference)), float(rms(reference))
    return error / size if size > 0 else (0.0 if error == 0 else float("inf"))


def measure_error(criterion: str, state: Array, reference: Array, tolerance: float, largest: Array) -> float:
    """Return an error over what a criterion allows: of the final state, or of F on one boundary's accepted state.

    Args:
        criterion: name of the criterion. One with "scaled" compares every component, any other the RMS of all.
        state, reference: shape (d,). The size is that of the reference.
        tolerance: relative tolerance.
        largest: largest absolute value of any component so far; errors below its rounding are allowed.
    """
    error, size = np.abs(state - reference), np.abs(reference)
    if "scaled" not in criterion:
        error, size = rms(error)[None], rms(size)[None]
    allowed = np.maximum(tolerance * size, EPSILON * largest)
    return float(np.where(error == 0, 0.0, error / np.where(allowed > 0, allowed, np.nan)).max())


def measure_solution(
    name: str, fine: RungeKuttaMethod, solution: parareal.Solution, case: EquationCase, reference: Array
) -> float:
    """Return the error of a solution in the scale of its criterion, over the tolerance."""
    states = solution.states
    largest = np.maximum.accumulate(np.abs(states).max(axis=1))
    if solution.outcome is parareal.Outcome.EXACT or name.startswith("Tolerance"):
        return measure_error(name, solution.final_state, reference, case.tolerance, largest[-1])
    ends = propagate(fine, states[:-1], case.steps)
    return max(
        measure_error(name, end, state, case.tolerance, size)
        for end, state, size in zip(ends, states[1:], largest[1:], strict=True)
    )


def run_case(case: EquationCase) -> list[EquationVerdict]:
    """Solve a case under every criterion; empty if its sequential solution is not finite."""
    fine, coarse = build_steppers(case)
    start, nodes = case.equation.start, range(0, case.slices * case.steps + 1, case.steps)

    def solve(criterion: parareal.AbstractCriterion, **options: Any) -> parareal.Solution:
        propagators = parareal.Steps(fine), parareal.Steps(coarse, 1)
        return parareal.solve(*propagators, start, nodes, criterion=criterion, throw=False, **options)

    verdicts, errors = [], []
    with np.errstate(all="ignore"):
        sequential = parareal.sequential(parareal.Steps(fine), start, nodes, throw=False)
        if not np.isfinite(sequential.states).all():
            return []
        reference = sequential.final_state
        solve(
            parareal.Iterations(case.slices),
            callback=lambda r: errors.append(relative_error(r.final_state, reference)),
        )
        oracle = next((k for k, e in enumerate(errors) if e <= case.tolerance), case.slices)
        for name, criterion in CRITERIA.items():
            solution = solve(criterion(case.tolerance))
            ratio = measure_solution(name, fine, solution, case, reference)
            end = solution.outcome.name, solution.iterations
            verdicts.append(EquationVerdict(case.family, str(case), name, *end, ratio, oracle))
    return verdicts
