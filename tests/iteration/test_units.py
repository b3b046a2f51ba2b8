"""Units: a problem times a power of two has the same solution times that power; sizes by leaf and by component."""

import math

import numpy as np
import optree
import pytest
import torch
from parareal_torchdiffeq import odeint
from problems import euler_propagator

import parareal
from parareal import Evidence, Outcome
from parareal._iteration.measure import Measure
from parareal._iteration.messages import Value
from parareal._state import Layout

TIMES = np.linspace(0, 6, 13)
RATES = {"plain": (1.0, 0.0, 0.0), "damped": (2.0, 0.4, 0.0), "forced": (1.5, 0.2, 1.0)}
"""squared frequency, damping, and amplitude of the force"""
UNITS = (2.0**-40, 2.0**40)
"""about 1e-12 and 1e12; multiplication by powers of two is exact"""
CRITERIA = {
    "increment": parareal.Increment(1e-6),
    "default": None,
    "defect": parareal.Defect(1e-5),
    "tolerance": parareal.Tolerance(1e-4),
    "worst increment": parareal.Tolerance(1e-4, parareal.worst_increment),
    "increment, scaled": parareal.Increment(1e-5, norm="scaled"),
    "defect, scaled": parareal.Defect(1e-5, norm="scaled"),
    "tolerance, scaled": parareal.Tolerance(1e-4, norm="scaled"),
}


def oscillator(kind, unit):
    """Return the right-hand side of an oscillator whose states and force are measured in `unit`."""
    square, damping, amplitude = RATES[kind]

    def rhs(t, u):
        stack = torch.stack if isinstance(u, torch.Tensor) else np.stack
        force = unit * amplitude * (math.cos(2 * t) if isinstance(t, float) else torch.cos(2 * t))
        return stack([u[1], force - square * u[0] - damping * u[1]])

    return rhs


def start(unit, library, dtype):
    """Return the initial state of the oscillators."""
    return np.array([unit, 0.5 * unit], dtype) if library is np else torch.tensor([unit, 0.5 * unit], dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("kind", RATES)
def test_a_solve_does_not_depend_on_the_units(kind, criterion, dtype):
    def run(unit):
        rhs = oscillator(kind, unit)
        fine, coarse = euler_propagator(rhs, 32), euler_propagator(rhs, 2)
        return parareal.solve(fine, coarse, start(unit, np, dtype), TIMES.tolist(), criterion=CRITERIA[criterion])

    reference = run(1.0)
    assert reference.iterations > 1
    for unit in UNITS:
        solution = run(unit)
        assert (solution.outcome, solution.iterations) == (reference.outcome, reference.iterations)
        np.testing.assert_array_equal(solution.slice_iterations, reference.slice_iterations)
        np.testing.assert_array_equal(solution.states / unit, reference.states)
        measured_in = 1.0 if "scaled" in criterion else unit
        np.testing.assert_allclose(solution.increments / measured_in, reference.increments, rtol=1e-5)
        np.testing.assert_allclose(solution.error_estimate, reference.error_estimate, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", RATES)
def test_odeint_does_not_depend_on_the_units(kind, dtype):
    t = torch.linspace(0, 6, 241, dtype=dtype)

    def run(unit):
        rhs = oscillator(kind, unit)
        return odeint(rhs, start(unit, torch, dtype), t, method="rk4", slices=12, return_solution=True)

    expected, reference = run(1.0)
    for unit in UNITS:
        ys, solution = run(unit)
        assert (solution.outcome, solution.iterations) == (reference.outcome, reference.iterations)
        torch.testing.assert_close(ys / unit, expected, rtol=0, atol=0)


def test_an_atol_that_the_caller_passes_to_odeint_is_used():
    t = torch.linspace(0, 6, 241, dtype=torch.float64)
    u = start(1.0, torch, torch.float64)

    def count(**tolerances):
        options = {"method": "euler", "slices": 12, "return_solution": True}
        return odeint(oscillator("damped", 1.0), u, t, **options, **tolerances)[1].iterations

    assert count(atol=1e-2) < count(atol=0.0) == count()


def two_scales(t, u):
    """Return the derivative of two damped oscillators: complex numbers, and the second is faster."""
    return u * np.array([-0.05 + 0.3j, -0.1 + 1.5j])


PAIR = np.array([1e8, 1.0 + 0j])


@pytest.mark.parametrize("rtol", [1e-3, 1e-5])
@pytest.mark.parametrize("make", [parareal.Increment, parareal.Defect, parareal.Tolerance])
def test_scaled_norms_bound_every_component(make, rtol):
    fine, coarse = (euler_propagator(two_scales, n) for n in (64, 4))
    reference = parareal.sequential(fine, PAIR, TIMES).final_state

    def errors(norm):
        solution = parareal.solve(fine, coarse, PAIR, TIMES, criterion=make(rtol, norm=norm))
        assert solution.outcome is Outcome.CONVERGED
        return np.abs(solution.final_state - reference) / np.abs(reference)

    assert (errors("scaled") <= (rtol if make is parareal.Tolerance else 10 * rtol)).all()
    assert errors("rms")[1] > 10 * rtol  # without which this test would prove nothing


@pytest.mark.parametrize("library", ["numpy", "torch", "python"])
@pytest.mark.parametrize("make", [parareal.Increment, parareal.Defect])
def test_every_leaf_of_a_pytree_is_measured_by_itself(make, library):
    convert = {"numpy": np.array, "torch": torch.tensor, "python": complex}[library]
    state = {"x": convert(1e8 + 0j), "v": convert(1.0 + 0j)}

    def rhs(t, u):
        return {"x": (-0.05 + 0.3j) * u["x"], "v": (-0.1 + 1.5j) * u["v"]}

    fine, coarse = (euler_propagator(rhs, n) for n in (64, 4))
    solution = parareal.solve(fine, coarse, state, TIMES, criterion=make(1e-4))
    reference = parareal.sequential(fine, state, TIMES).final_state
    assert solution.outcome is Outcome.CONVERGED
    for name in state:
        assert abs(solution.final_state[name] - reference[name]) <= 1e-3 * abs(reference[name])


@pytest.mark.parametrize("norm", ["rms", "l1", "max", "scaled"])
def test_zero_states_are_accepted(norm):
    fine, coarse = (euler_propagator(lambda t, u: optree.tree_map(lambda x: -x, u), n) for n in (8, 1))
    for state in (np.zeros(2), {"a": np.zeros(2), "b": 0.0}):
        for make in (parareal.Increment, parareal.Defect):
            solution = parareal.solve(fine, coarse, state, TIMES, criterion=make(norm=norm))
            assert not solution.outcome.failed
            assert solution.iterations == 1


@pytest.mark.parametrize("make", [parareal.Increment, parareal.Defect, parareal.Tolerance])
def test_a_component_that_is_rounding_noise_does_not_block(make):
    """The second component is zero except for the rounding of numbers of size 1, which differs in every iterate."""

    def advance(steps):
        propagate = euler_propagator(lambda t, u: (-0.1 + 1j) * u, steps)

        def advance_both(u, t0, t1):
            first = propagate(u[0], t0, t1)
            return np.array([first, 1e-16 * np.cos(1e16 * abs(first))])

        return advance_both

    criterion = make(1e-6, norm="scaled")
    solution = parareal.solve(advance(64), advance(8), np.array([1.0 + 0j, 0.0]), TIMES, criterion=criterion)
    assert solution.outcome is Outcome.CONVERGED
    assert solution.iterations <= 8


def test_thresholds_use_the_larger_size_and_never_fall_below_rounding():
    evidence = Evidence(1, 1, 0.1, 0.1, 0.5, 0.0)
    criterion = parareal.Increment(0.1)
    assert not criterion.accepts(evidence)
    assert criterion.accepts(evidence._replace(previous_size=1.0))
    assert criterion.accepts(evidence._replace(rounding=0.1))
    assert criterion.accepts(evidence._replace(increment=0.0, size=0.0))


def test_a_criterion_of_ones_own_may_measure_by_component():
    class Half(parareal.AbstractCriterion):
        norm = "scaled"

        def accepts(self, evidence):
            sizes.add(evidence.size)
            return evidence.increment <= 1e-4 * evidence.size

    sizes = set()
    fine, coarse = (euler_propagator(two_scales, n) for n in (64, 4))
    solution = parareal.solve(fine, coarse, PAIR, TIMES, criterion=Half())
    reference = parareal.sequential(fine, PAIR, TIMES).final_state
    assert sizes == {1.0}
    assert (np.abs(solution.final_state - reference) <= 1e-3 * np.abs(reference)).all()


def test_scaled_norms_are_refused_where_nothing_is_relative():
    euler = euler_propagator(lambda t, u: -u, 1)
    with pytest.raises(ValueError, match="use norm='max'"):
        parareal.solve(euler, euler, 1.0, [0, 1], criterion=parareal.Increment(0.0, 1e-3, norm="scaled"))
    with pytest.raises(ValueError, match="norm must be one of"):
        parareal.LastChange(1e-3, norm="scaled")


def test_the_memory_of_a_fine_stepper_is_measured_by_leaf():
    """A memory has units of its own, so each of its leaves is compared with itself."""
    layout = Layout.of({"x": np.array(1.0), "v": np.array(1e-8)})
    measure = Measure.of(parareal.Increment(1e-3), layout)
    evidence = Evidence(1, 1, 0.0, 0.0, 1.0, 0.0)
    change, size, leaves = measure.compare_memory([np.array(1e8), np.array(1.1)], [np.array(1e8), np.array(1.0)])
    assert change < 1e-3 * size
    assert not parareal.Increment(1e-3).overlooks(change, size, evidence._replace(leaves=leaves))
    assert parareal.Increment(0.2).overlooks(change, size, evidence._replace(leaves=leaves))


def test_an_iterate_that_overshoots_does_not_raise_the_rounding_further_right():
    measure = Measure.of(parareal.Increment(1e-3), Layout.of(1.0))
    for final in (False, True):
        left = Value(1, 1e30, exact=final, largest_sizes=(1e30,))
        value = measure.carry_sizes(measure.add_sizes(Value(1, 1.0), measure.measure_sizes(1.0)), left)
        assert value.largest_sizes == ((1e30,) if final else (1.0,))
