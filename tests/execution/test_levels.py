"""Tests of nested levels: work and span, warm starts, and inexact results of inner solves."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import METHODS, AdamsBashforth2Stepper, EulerStepper, edges, euler_propagator, identical

import parareal


def build_stepper(steps, method="euler"):
    grid = torch.linspace(0, 3, steps + 1, dtype=torch.float64)
    return METHODS[method](lambda u, t: -u * torch.sin(3 * t) - 0.1 * u * u, grid)


STATE = torch.tensor([1.0, 2.0], dtype=torch.float64)


def solve_nested(steps, levels, method="euler", **options):
    one = build_stepper(steps, method)
    return parareal.solve(parareal.Steps(one), parareal.Steps(one, 1), STATE, [0, steps], levels=levels, **options)


@pytest.mark.parametrize(
    ("steps", "levels", "span"),
    [(961, (12, 9), 28), (196, (12, 4), 19), (972, (12, 9), 28), (1000, (5, 5, 5), 20), (48, (2, 3, 2, 2), 7)],
)
def test_span_and_work_of_one_iteration_per_level(steps, levels, span):
    """Span: the sum of the slices of all levels and the innermost steps, minus one for each shared evaluation."""
    solution = solve_nested(steps, levels, criterion=parareal.Iterations(1))
    inner = -(-steps // int(np.prod(levels)))
    assert solution.stats.span == sum(levels) + inner - len(levels) == span
    assert solution.stats.calls == span  # all levels share their ticks
    # Work: every step once. Every coarse jump shares its evaluation with the first step of its slice, and is made again
    # in the correction, except in the first slice of each solve.
    corrections, solves = 0, 1
    for slices in levels:
        corrections, solves = corrections + solves * (slices - 1), solves * slices
    assert solution.stats.work == steps + corrections
    assert (solution.stats.sequential_work, solution.stats.sequential_span) == (steps, steps)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 4), outer=st.integers(4, 6), inner=st.integers(2, 4), size=st.integers(1, 5))
def test_span_of_more_iterations(count, outer, inner, size):
    """M1 + p (M2 + S2 - 1) - 1 (eq. 13): inner solves of one slice run one after another, one per outer iteration."""
    count = min(count, outer - 1)
    solution = solve_nested(outer * inner * size, (outer, inner), criterion=parareal.Iterations(count))
    assert solution.stats.span == outer + count * (inner + size - 1) - 1


@pytest.mark.parametrize("levels", [(4, 3), (3, 2, 2)])
@pytest.mark.parametrize("method", ["rk4", "heun"])
def test_inner_solves_start_where_the_last_one_ended(levels, method):
    reference = parareal.sequential(parareal.Steps(build_stepper(96, method)), STATE, [0, 96]).final_state
    errors = []
    for count in range(1, levels[0]):
        solution = solve_nested(96, levels, method, criterion=parareal.Iterations(count))
        errors.append(float((solution.final_state - reference).abs().max()))
    assert all(later < 0.5 * earlier for earlier, later in pairwise(errors))


def test_slices_with_unchanged_input_are_solved_again():
    """One inner iteration per outer iteration is far from F, so slice 0, whose input never changes, must run again."""
    fine, coarse = (euler_propagator(lambda t, u: np.sin(3 * u) + t, n) for n in (4, 1))
    nest = parareal.Parareal(fine, coarse, 4, criterion=parareal.Iterations(1))
    # with longer slices the increments still grow in the third iteration, and the estimate would be infinite
    times, state = np.linspace(0, 3, 4), np.array([0.3, 1.0])
    reference = parareal.sequential(nest, state, times)
    # 3 outer iterations would be a run to the end if the inner results were exact
    early = parareal.solve(nest, coarse, state, times, criterion=parareal.Iterations(3))
    assert early.outcome is parareal.Outcome.ITERATIONS_DONE
    assert not identical(early.final_state, reference.final_state)
    assert np.isfinite(early.error_estimate).all()
    assert early.error_estimate[0] > 0
    late = parareal.solve(nest, coarse, state, times, criterion=parareal.Iterations(12))
    assert late.outcome is parareal.Outcome.EXACT
    assert identical(late.states, reference.states)


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("inner", [1, 2, None])
def test_settled_boundaries_have_small_defects(rtol, inner):
    """`Increment` keeps its promise with an inexact F: a settled boundary is close to the exact F of its neighbour."""
    one = build_stepper(961)
    fine, coarse = parareal.Steps(one), parareal.Steps(one, 1)
    nest = parareal.Parareal(fine, coarse, 9, inner_iterations=inner)
    nodes = edges(961, 12)
    solution = parareal.solve(nest, coarse, STATE, nodes, criterion=parareal.Increment(rtol, 0.0))
    assert solution.outcome is parareal.Outcome.CONVERGED
    for n in range(12):
        end = parareal.sequential(fine, solution.states[n], nodes[n : n + 2]).final_state
        defect = (end - solution.states[n + 1]).square().mean().sqrt() / solution.states[n + 1].square().mean().sqrt()
        assert float(defect) <= rtol


def test_memory_of_a_multistep_method_crosses_levels():
    grid = torch.linspace(0, 2, 49, dtype=torch.float64)
    rule = AdamsBashforth2Stepper(lambda u, t: torch.cos(t) - u, grid)
    fine, coarse = parareal.Steps(rule), parareal.Steps(EulerStepper(rule.evaluate, grid), 1)
    solution = parareal.solve(
        fine,
        coarse,
        STATE,
        [0, 48],
        levels=(4, 3),
        criterion=parareal.Iterations(4),
        executor=parareal.SerialExecutor(),
    )
    assert solution.outcome is parareal.Outcome.EXACT
    assert identical(solution.final_state, parareal.sequential(fine, STATE, [0, 48]).final_state)


def test_a_nested_coarse_propagator_ends_exactly():
    """As G an inner solve is the same map in every iteration, so finite termination holds."""
    fine, middle, coarse = (euler_propagator(lambda t, u: np.cos(u) - t, n) for n in (32, 4, 1))
    nested_coarse = parareal.Parareal(middle, coarse, 2, criterion=parareal.Iterations(1))
    times, state = np.linspace(0, 2, 6), np.array([0.1, 0.7])
    reference = parareal.sequential(fine, state, times).states
    solution = parareal.solve(fine, nested_coarse, state, times, criterion=parareal.Iterations(5))
    assert identical(solution.states, reference)
    plain, better = (
        parareal.solve(fine, g, state, times, criterion=parareal.Iterations(1)).states for g in (coarse, nested_coarse)
    )
    assert np.abs(better - reference).max() < np.abs(plain - reference).max()


def test_parareal_as_an_object():
    fine, coarse = euler_propagator(lambda t, u: -u, 10), euler_propagator(lambda t, u: -u, 1)
    method = parareal.Parareal(fine, coarse, 5)
    state = np.array([1.0])
    solution = method.solve(state, 0.0, 1.0)
    assert solution.boundaries == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    np.testing.assert_array_equal(method(state, 0.0, 1.0), solution.final_state)
    np.testing.assert_allclose(method(state, 0.0, 1.0), parareal.sequential(method, state, [0.0, 1.0]).final_state)
    report = parareal.check(method, coarse, state, [0.0, 0.5, 1.0])
    assert report.ok, str(report)


def test_a_slice_has_at_most_one_inner_slice_per_step():
    solution = solve_nested(10, (4, 9), criterion=parareal.Iterations(1))
    assert solution.stats.span == 4 + 3 + 1 - 2
    assert solution.boundaries == [0, 2, 5, 8, 10]


@pytest.mark.parametrize(
    ("levels", "boundaries", "words"),
    [
        ((), [0, 24], "outermost first"),
        (4, [0, 24], "outermost first"),
        ((4, 0), [0, 24], "outermost first"),
        ((4, 2.5), [0, 24], "outermost first"),
        ((4, 2), [0, 6, 24], "requires 4 outermost slices, but there are 2"),
        ((9, 2), [0, 4], "requires 9 outermost slices, but there are 4"),
    ],
)
def test_unsupported_levels_are_refused(levels, boundaries, words):
    one = parareal.Steps(build_stepper(24))
    with pytest.raises(ValueError, match=words):
        parareal.solve(one, one, STATE, boundaries, levels=levels)


def test_unsupported_arguments_of_parareal_are_refused():
    one = parareal.Steps(build_stepper(24))
    with pytest.raises(ValueError, match="slices"):
        parareal.Parareal(one, one, 0)
    with pytest.raises(ValueError, match="inner_iterations"):
        parareal.Parareal(one, one, 3, inner_iterations=0)
    with pytest.raises(TypeError, match="criterion"):
        parareal.Parareal(one, one, 3, criterion=1e-3)
    with pytest.raises(ValueError, match="whole numbers"):
        parareal.solve(parareal.Parareal(one, one, 3), one, STATE, [0.0, 0.5, 1.0])


def test_timeline_trace_and_plot_of_levels(tmp_path):
    pytest.importorskip("matplotlib")
    solution = solve_nested(96, (4, 3), criterion=parareal.Iterations(1))
    assert {p.level for p in solution.propagations} == {0, 1}
    solution.timeline().savefig(tmp_path / "timeline.png")
    solution.trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    lanes = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert len(lanes) == 4 + 12
    assert "level 1, from 24 to 32" in lanes
    assert sum(e["ph"] == "X" for e in events) == 2 * len(solution.propagations)
    solution.plot().savefig(tmp_path / "plot.png")


@pytest.mark.filterwarnings("ignore:overflow")
def test_overflow_within_a_level_is_reported():
    def overflow(u, t0, t1):
        return u * 1e200

    nest = parareal.Parareal(overflow, lambda u, a, b: u, 3)
    with pytest.raises(parareal.PararealError, match="not finite"):
        parareal.solve(nest, lambda u, a, b: u, np.array([1.0]), [0.0, 1.0, 2.0])


@pytest.mark.parametrize("criterion", [parareal.Increment(1e-10, 1e-10), parareal.Tolerance(1e-10)])
@pytest.mark.parametrize("slices", [4, 5, 7])
@pytest.mark.parametrize("options", [{}, {"window": 3}, {"schedule": "synchronous"}])
def test_memory_that_still_changes_does_not_settle(criterion, slices, options):
    """With one step per slice and G equal to F except for memory, a state may stop changing before its memory does."""
    grid = torch.linspace(0, 2, slices + 1, dtype=torch.float64)
    fine = parareal.Steps(AdamsBashforth2Stepper(lambda u, t: -u * torch.sin(3 * t) - 0.1 * u * u, grid))
    solution = parareal.solve(
        fine, parareal.Steps(fine.stepper, 1), STATE, range(slices + 1), criterion=criterion, **options
    )
    reference = parareal.sequential(fine, STATE, range(slices + 1)).final_state
    torch.testing.assert_close(solution.final_state, reference, rtol=1e-8, atol=1e-9)


def test_fine_memory_is_corrected_with_a_nested_coarse_propagator():
    class EulerWithLastState(EulerStepper):
        """Euler's method with the last state as memory."""

        def begin(self, state):
            return state * 0

        def step(self, state, memory, start, stop):
            state, _ = yield from super().step(state, memory, start, stop)
            return state, state

        def correct(self, memory, change, node, coarse_memories):
            return memory + change.reshape(memory.shape)

    grid = torch.linspace(0, 2, 25, dtype=torch.float64)
    rule = AdamsBashforth2Stepper(lambda u, t: torch.cos(t) - u, grid)
    fine = EulerWithLastState(rule.evaluate, grid)
    coarse = parareal.Parareal(
        parareal.Steps(rule, 4),
        parareal.Steps(EulerStepper(rule.evaluate, grid), 1),
        2,
        criterion=parareal.Iterations(1),
    )
    solution = parareal.solve(
        parareal.Steps(fine), coarse, STATE, edges(24, 4), criterion=parareal.Increment(1e-9, 0.0)
    )
    reference = parareal.sequential(parareal.Steps(fine), STATE, [0, 24]).final_state
    torch.testing.assert_close(solution.final_state, reference, rtol=1e-8, atol=0)


def test_consecutive_acceptance_applies_to_the_outermost_level_only():
    once, twice = (
        solve_nested(240, (10, 6), criterion=parareal.Increment(1e-4, 1e-4, consecutive=c)).iterations for c in (1, 2)
    )
    assert once <= twice <= once + 2


def test_an_inner_solve_without_an_iteration_is_refused():
    one = parareal.Steps(build_stepper(24))
    with pytest.raises(ValueError, match="never runs fine"):
        parareal.Parareal(one, one, 3, criterion=parareal.Iterations(0))
