"""Solutions and all that a caller gets from a solve: refinements, callbacks, bars, plots, files, checks, citations."""

import json
import random

import numpy as np
import pytest
import torch
from problems import PROBLEMS, AdamsBashforth2Stepper, EulerStepper, edges, euler_propagator, identical

import parareal

TIMES = np.linspace(0, 2, 9)
FINE, COARSE = (euler_propagator(lambda t, u: u * (1 - u), n) for n in (20, 1))


@pytest.fixture
def solution():
    return parareal.solve(FINE, COARSE, np.array([0.1, 0.5]), TIMES)


def test_refinements_are_usable_and_improve():
    reference = parareal.sequential(FINE, 0.1, TIMES).final_state
    errors = []
    for refinement in parareal.refine(FINE, COARSE, 0.1, TIMES):
        assert refinement.iteration == len(errors)
        assert refinement.states.shape == (9,)
        assert refinement.states[-1] == refinement.final_state
        errors.append(abs(refinement.final_state - reference))
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-6
    assert np.isinf(next(parareal.refine(FINE, COARSE, 0.1, TIMES)).error_estimate).all()


def test_refine_works_only_when_an_item_is_requested():
    calls = []

    def record_call(u, t0, t1):
        calls.append(t0)
        return FINE(u, t0, t1)

    refinements = parareal.refine(record_call, COARSE, 0.1, TIMES, executor=parareal.SerialExecutor())
    assert not calls
    next(refinements)
    count = len(calls)
    next(refinements)
    assert len(calls) > count


def test_a_callback_is_called_after_every_iteration_and_can_cancel():
    iterations = []
    solution = parareal.solve(FINE, COARSE, 0.1, TIMES, callback=lambda r: iterations.append(r.iteration))
    assert iterations == list(range(solution.iterations + 1))
    with pytest.raises(parareal.PararealError, match="cancelled") as caught:
        parareal.solve(FINE, COARSE, 0.1, TIMES, callback=lambda r: r.iteration < 2)
    cancelled = caught.value.solution
    assert cancelled.outcome is parareal.Outcome.CANCELLED
    assert cancelled.iterations == 2
    reference = parareal.sequential(FINE, 0.1, TIMES).final_state
    assert abs(cancelled.final_state - reference) < 1e-3


def test_progress_shows_iteration_increment_and_boundaries_left(capsys):
    parareal.solve(FINE, COARSE, 0.1, TIMES, progress=True)
    output = capsys.readouterr().err
    assert "iteration=" in output
    assert "increment=" in output
    assert "left=0" in output
    assert "8/8" in output
    parareal.solve(FINE, COARSE, 0.1, TIMES)
    assert capsys.readouterr().err == ""


def test_the_fields_of_a_solution_have_their_shapes(solution):
    k = solution.iterations
    assert solution.states.shape == (9, 2)
    assert solution.increments.shape == solution.defects.shape == (k + 1, 9, 1)
    assert np.isnan(solution.increments[0]).all()
    assert np.isnan(solution.increments[:, 0]).all()
    assert solution.slice_iterations.shape == (8, 1)
    assert identical(solution.states[-1], solution.final_state)
    assert solution.boundaries == TIMES.tolist()
    assert solution.stats.wall_time > 0


def test_defects_are_the_shooting_residuals():
    """Compare the norms of F(k, n) - U(k, n+1) with those computed from the iterates themselves."""
    iterates = [parareal.solve(FINE, COARSE, 0.1, TIMES, criterion=parareal.Iterations(k)).states for k in range(4)]
    solution = parareal.solve(FINE, COARSE, 0.1, TIMES, criterion=parareal.Iterations(3))
    for k in range(3):
        for n in range(k, 8):
            residual = abs(FINE(float(iterates[k][n]), TIMES[n], TIMES[n + 1]) - iterates[k][n + 1])
            assert solution.defects[k, n + 1, 0] == pytest.approx(residual, rel=1e-9, abs=1e-15)
            increment = abs(iterates[k + 1][n + 1] - iterates[k][n + 1])
            assert solution.increments[k + 1, n + 1, 0] == pytest.approx(increment, rel=1e-12)


def test_plots_can_be_saved_and_show_the_increments(solution, tmp_path):
    for name, figure in (("plot", solution.plot()), ("timeline", solution.timeline())):
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    lines = solution.plot().axes[0].lines
    worst = np.nanmax(solution.increments[1], axis=1)
    np.testing.assert_allclose(lines[0].get_ydata(), worst[1:])


def test_the_trace_holds_every_propagation(solution, tmp_path):
    solution.trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    bars = [e for e in events if e["ph"] == "X" and e["pid"] == 1]
    assert len(bars) == len(solution.propagations) == solution.stats.work
    assert max(e["ts"] + e["dur"] for e in bars) >= solution.stats.span * 1e3
    for bar in bars:
        assert {"name", "ts", "dur", "tid"} <= bar.keys()


def test_a_saved_solution_can_be_loaded_without_pickled_objects(solution, tmp_path):
    solution.save(tmp_path / "solution.pt")
    loaded = torch.load(tmp_path / "solution.pt", weights_only=True)
    np.testing.assert_array_equal(loaded["states"].numpy(), solution.states)
    assert loaded["outcome"] == solution.outcome.name
    assert loaded["stats"]["work"] == solution.stats.work


def test_check_passes_valid_propagators():
    report = parareal.check(FINE, COARSE, np.array([0.1]), TIMES)
    assert report.ok
    assert str(report).count("ok") == 4
    grid = torch.linspace(0, 2, 25, dtype=torch.float64)
    stepper = EulerStepper(lambda u, t: u * (1 - u) * t, grid)
    state = torch.full((2, 3), 0.3, dtype=torch.float64)
    assert parareal.check(parareal.Steps(stepper), parareal.Steps(stepper, 1), state, edges(24, 5), batch_dims=1).ok


def _halve_in_place(u, t0, t1):
    u *= 0.5
    return u


@pytest.mark.parametrize(
    ("name", "fine", "message"),
    [
        ("structure", lambda u, a, b: u[:1], "shape"),
        ("deterministic", lambda u, a, b: u + random.random(), "two different results"),
        ("deterministic", _halve_in_place, "changes its input"),
        ("batched", parareal.vectorized(lambda u, a, b: u - u.mean(0) * a[:, None]), "depends on the other rows"),
        ("batched", parareal.vectorized(lambda u, a, b: u + a[0] + 0.1), "depends on the other rows"),
    ],
)
def test_check_finds_faults_of_propagators(name, fine, message):
    report = parareal.check(fine, lambda u, a, b: u * 0.9, np.array([0.5, 0.7]), TIMES)
    assert not report.ok
    finding = next(f for f in report.findings if f.name == name)
    assert not finding.passed
    assert message in finding.message


def test_multistep_memory_is_part_of_the_state():
    """Without it the iteration would converge to another answer; with it the last iterate is the sequential one."""
    grid = torch.linspace(0, 2, 25, dtype=torch.float64)
    fine = parareal.Steps(AdamsBashforth2Stepper(lambda u, t: -u * t, grid))
    coarse = parareal.Steps(EulerStepper(lambda u, t: -u * t, grid), 1)
    state = torch.ones(2, dtype=torch.float64)
    reference = parareal.sequential(fine, state, edges(24, 6)).final_state
    errors = [
        float((r.final_state - reference).abs().max())
        for r in parareal.refine(fine, coarse, state, edges(24, 6), criterion=parareal.Iterations(6))
    ]
    assert errors[-1] == 0
    assert errors[3] < errors[1] < errors[0]


class CorrectionRecorder(AdamsBashforth2Stepper):
    """A stepper that records the arguments of `correct`."""

    def correct(self, memory, change, node, coarse_memories):
        self.corrections = getattr(self, "corrections", [])
        self.corrections.append((memory[0].shape, change.shape, node))
        return memory[0] + 0 * change, memory[1]


def test_a_fine_stepper_corrects_its_memory_with_the_state():
    """`correct` receives stacks of one row and the node of the boundary; at the end it affects no result."""
    grid = torch.linspace(0, 2, 25, dtype=torch.float64)
    recorder = CorrectionRecorder(lambda u, t: -u * t, grid)
    coarse = parareal.Steps(EulerStepper(lambda u, t: -u * t, grid), 1)
    state = torch.ones(2, dtype=torch.float64)
    solution = parareal.solve(parareal.Steps(recorder), coarse, state, edges(24, 6), criterion=parareal.Iterations(6))
    reference = parareal.sequential(parareal.Steps(recorder), state, edges(24, 6)).final_state
    assert identical(solution.final_state, reference)
    assert {(a, b) for a, b, _ in recorder.corrections} == {((1, 2), (1, 2))}
    assert {node for _, _, node in recorder.corrections} == {8, 12, 16, 20, 24}


class CountingStepper(EulerStepper):
    """Euler's method with memory: its last increment, and an integer that grows by one per step if `counts` is True."""

    def __init__(self, *rule, number, counts=False):
        super().__init__(*rule)
        self.number, self.counts = number, counts

    def begin(self, state):
        return state * 0, torch.full((len(state),), self.number)

    def step(self, state, memory, start, stop):
        new, _ = yield from super().step(state, None, start, stop)
        return new, (new - state, memory[1] + int(self.counts))


def test_integers_in_memory_are_bookkeeping():
    """They do not enter the norm of a memory, but a boundary at which they still change does not settle."""
    rule = (lambda u, t: -0.3 * u), torch.linspace(0, 2, 121, dtype=torch.float64)
    state, nodes = torch.ones(2, dtype=torch.float64), edges(120, 12)

    def run(**options):
        fine, stop = CountingStepper(*rule, **options), parareal.Increment(1e-6, 0.0)
        return parareal.solve(
            parareal.Steps(fine), parareal.Steps(EulerStepper(*rule), 1), state, nodes, criterion=stop
        )

    small, large, counting = run(number=0), run(number=10**9), run(number=0, counts=True)
    assert small.iterations == large.iterations < 12
    assert small.outcome is parareal.Outcome.CONVERGED
    assert identical(small.final_state, large.final_state)
    assert counting.outcome is parareal.Outcome.EXACT


def test_an_exception_of_a_callback_is_passed_on():
    def callback(refinement):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        parareal.solve(FINE, COARSE, 0.1, TIMES, callback=callback)


def test_refine_raises_for_states_that_are_not_finite_but_not_at_the_iteration_limit():
    failing = parareal.refine(lambda u, a, b: u * float("nan"), COARSE, 0.1, TIMES)
    assert next(failing).iteration == 0
    with pytest.raises(parareal.PararealError, match="not finite"):
        list(failing)
    limited = parareal.refine(FINE, COARSE, 0.1, TIMES, max_iterations=1)
    assert [r.iteration for r in limited] == [0, 1]


def test_boundaries_reach_plain_functions_unchanged():
    intervals = []

    def fine(u, t0, t1):
        intervals.append((t0, t1))
        return u * 0.5

    parareal.solve(fine, lambda u, a, b: u, 1.0, (0, 1, 3))
    assert set(intervals) == {(0, 1), (1, 3)}
    assert all(type(t) is int for pair in intervals for t in pair)
    times = torch.tensor([0.0, 0.5, 1.0])
    parareal.solve(lambda u, a, b: u * a.exp() / b.exp(), lambda u, a, b: u, torch.ones(2), times)


def test_results_do_not_share_memory_with_the_buffers_of_functions():
    buffer = np.empty(2)

    def fine(u, t0, t1):
        np.multiply(u, 0.5, out=buffer)
        return buffer

    solution = parareal.solve(fine, lambda u, a, b: u * 0.6, np.ones(2), range(5))
    np.testing.assert_allclose(solution.final_state, 0.5**4)


@pytest.mark.parametrize(
    "times",
    [
        list(np.arange(4)),
        np.arange(4.0).astype(np.float32),
        [np.float32(t) for t in range(4)],
        torch.arange(4.0),
        [torch.tensor(float(t)) for t in range(4)],
        range(4),
    ],
)
def test_boundaries_may_be_of_any_form(times):
    fine, coarse = (lambda u, a, b, r=r: u * (1 - r * float(b - a)) for r in (0.1, 0.11))
    solution = parareal.solve(fine, coarse, 1.0, times)
    assert solution.final_state == pytest.approx(0.9**3, rel=1e-6)
    assert parareal.solve(fine, coarse, 1.0, solution.boundaries).final_state == solution.final_state
    assert parareal.check(fine, coarse, 1.0, times).ok


def test_whole_numbers_may_be_numpy_integers():
    solution = parareal.solve(FINE, COARSE, 0.1, TIMES, criterion=parareal.Iterations(np.int64(2)))
    assert solution.iterations == 2
    parareal.solve(FINE, COARSE, 0.1, TIMES, max_iterations=np.int64(8), executor=parareal.BatchedExecutor(np.int64(3)))


def test_no_result_requires_a_gradient():
    solution = parareal.solve(FINE, COARSE, torch.full((2,), 0.1, requires_grad=True), TIMES)
    assert not solution.states.requires_grad


def test_conjugate_views_of_complex_tensors_are_compared_by_value():
    fine, coarse = (euler_propagator(lambda t, u: 1j * torch.conj(u), n) for n in (8, 1))
    start = torch.tensor([1.0 + 1j, 0.5], dtype=torch.complex128)
    reference = parareal.sequential(lambda u, a, b: torch.conj(fine(u, a, b)), start, TIMES)
    solution = parareal.solve(
        lambda u, a, b: torch.conj(fine(u, a, b)),
        lambda u, a, b: torch.conj(coarse(u, a, b)),
        start,
        TIMES,
        criterion=parareal.Iterations(8),
    )
    assert torch.equal(solution.final_state, reference.final_state)


def test_vectorized_times_have_the_states_library_and_dtype():
    arguments = []

    @parareal.vectorized
    def halve(u, t0, t1):
        arguments.append((u, t0, t1))
        return u * 0.5

    for state in (1.0, np.ones(2, np.float32), torch.ones(2), torch.ones(2, dtype=torch.complex128)):
        for times in ([0.0, 1.0, 2.0], [0, 1, 2]):
            parareal.solve(halve, halve, state, times)
            u, t0, t1 = arguments[-1]
            assert type(t0) is type(u)
            assert t0.shape == (len(u),)
            whole = isinstance(times[0], int)
            assert "int" in str(t0.dtype) if whole else t0.dtype == (u.real.dtype)
            assert (t1 - t0 == 1).all()


def test_citations_hold_the_entries_of_their_topics():
    assert "10.1016/S0764-4442(00)01793-6" in parareal.citation("parareal")
    assert parareal.citation().count("@") == 17
    assert parareal.citation("nonlinear", "waves").count("@") == 2
    assert "2412.08292" in parareal.citation("diffusion")


def test_every_kind_of_state_keeps_its_type():
    for problem in PROBLEMS.values():
        fine, coarse = (euler_propagator(problem.rhs, n) for n in (4, 1))
        final = parareal.solve(fine, coarse, problem.initial, [0.0, 0.3, 0.5]).final_state
        expected = float if isinstance(problem.initial, int) else type(problem.initial)
        assert type(final) is expected
