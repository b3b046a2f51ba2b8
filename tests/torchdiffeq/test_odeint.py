"""Tests that `odeint` returns the result of `torchdiffeq.odeint` on the same grid."""

import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
import torchdiffeq
from hypothesis import given, settings
from hypothesis import strategies as st
from parareal_torchdiffeq import _batching_probe, _slice_count, odeint
from parareal_torchdiffeq._methods import METHODS
from parareal_torchdiffeq._problem import FixedGridProblem

import parareal

STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
SHAPES = {"scalar": (), "vector": (3,), "matrix": (2, 2), "pair": ((2,), (3,)), "ranks": ((2, 2), ())}


def field(t, y):
    """Return smooth slopes for a state of any shape and dtype; the leaves of a tuple are coupled."""
    if isinstance(y, tuple):
        a, b = y
        return torch.cos(t) - a / (1 + a.abs()), a.mean() - b * 0.5
    return torch.cos(3 * t) - y / (1 + y.abs())


def initial_state(shape, dtype, seed=0):
    if shape and isinstance(shape[0], tuple):
        return tuple(initial_state(s, dtype, seed + i) for i, s in enumerate(shape))
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def get_leaves(y):
    return y if isinstance(y, tuple) else (y,)


def assert_equal(ours, theirs, ulps):
    """Compare dtypes and shapes exactly, and values to `ulps` units in the last place of the largest number."""
    assert type(ours) is type(theirs)
    for x, y in zip(get_leaves(ours), get_leaves(theirs), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert (x - y).abs().max() <= ulps * torch.finfo(y.dtype).eps * y.abs().max()


def solve_to_the_end(func, y0, t, slices, **arguments):
    return odeint(func, y0, t, slices=slices, criterion=parareal.Iterations(slices), **arguments)


@settings(max_examples=80, deadline=None)
@given(
    method=st.sampled_from(list(METHODS)),
    shape=st.sampled_from(list(SHAPES)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.complex128]),
    t_dtype=st.sampled_from([torch.float32, torch.float64]),
    falling=st.booleans(),
    gaps=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    grid=st.sampled_from(["t", "step_size", "grid_constructor"]),
    interp=st.sampled_from(["linear", "cubic"]),
    perturb=st.booleans(),
    coarse=st.sampled_from(["auto", "euler", lambda y, t0, t1: y]),
    share=st.floats(0, 1),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
    executor=st.sampled_from([None, parareal.SerialExecutor(), parareal.BatchedExecutor(3)]),
)
def test_equal_to_torchdiffeq(
    method, shape, dtype, t_dtype, falling, gaps, grid, interp, perturb, coarse, share, schedule, executor
):
    t = torch.tensor([0, *np.cumsum(gaps)], dtype=t_dtype) / 20 - 0.3
    t = -t if falling else t
    options = {"interp": interp, "perturb": perturb}
    steps = len(gaps)
    if grid == "step_size":
        options["step_size"] = 0.11
        steps = int(torch.ceil((t[-1] - t[0]).abs() / 0.11))
    elif grid == "grid_constructor":  # output times lie at its nodes, between them, and at both ends
        steps = 13
        options["grid_constructor"] = lambda f, y, t: t[0] + (t[-1] - t[0]) * (torch.arange(14).to(t) / 13) ** 1.5
    slices = 1 + round(share * (steps - 1))
    y0 = initial_state(SHAPES[shape], dtype)
    theirs = torchdiffeq.odeint(field, y0, t, method=method, options=options)
    solve_options = {"coarse": coarse, "schedule": schedule, "executor": executor}
    ours = solve_to_the_end(field, y0, t, slices, method=method, options=options, **solve_options)
    assert_equal(ours, theirs, ulps=40)
    assert all(torch.equal(x[0], y) for x, y in zip(get_leaves(ours), get_leaves(y0), strict=True))


@settings(max_examples=20, deadline=None)
@given(method=st.sampled_from(list(METHODS)), falling=st.booleans(), perturb=st.booleans())
def test_perturb_decides_on_which_side_of_a_jump_func_is_evaluated(method, falling, perturb):
    t = torch.linspace(-1, 1, 9, dtype=torch.float64)
    t = t.flip(0) if falling else t

    def jump(t, y):
        return torch.where(t <= 0, -1.0, 2.0) * torch.ones_like(y)

    y0, options = torch.ones(2, dtype=torch.float64), {"perturb": perturb}
    ours = solve_to_the_end(jump, y0, t, 3, method=method, options=options)
    assert_equal(ours, torchdiffeq.odeint(jump, y0, t, method=method, options=options), ulps=10)
    if perturb:  # every step sees one side of the jump only, so all five methods are exact
        assert ours[-1, 0].item() == pytest.approx(-0.0 if falling else 2.0, abs=1e-14)


@settings(max_examples=15, deadline=None)
@given(
    steps=st.integers(200, 500),
    rtol=st.sampled_from([1e-4, 1e-7, 1e-10]),
    method=st.sampled_from(["midpoint", "heun3", "rk4"]),
    slices=st.sampled_from(["auto", "sqrt", 17]),
)
def test_results_are_within_the_tolerances(steps, rtol, method, slices):
    t = torch.tensor([0.0, 0.77, 5.0], dtype=torch.float64)
    y0, options = torch.tensor([2.0, 0.0], dtype=torch.float64), {"step_size": 5.0 / steps}

    def van_der_pol(t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, (1 - x * x) * v - x], -1)

    ours, solution = odeint(
        van_der_pol, y0, t, method=method, options=options, slices=slices, rtol=rtol, atol=1e-12, return_solution=True
    )
    theirs = torchdiffeq.odeint(van_der_pol, y0, t, method=method, options=options)
    assert (ours - theirs).norm() <= 10 * (rtol * theirs.norm() + 1e-12)
    assert isinstance(solution.states, torch.Tensor)
    assert solution.final_state.shape == y0.shape


def test_single_precision_stops_at_its_resolution():
    y0, t = torch.ones(2), torch.linspace(0, 2, 65)
    ours, solution = odeint(field, y0, t, method="rk4", return_solution=True)
    assert_equal(ours, torchdiffeq.odeint(field, y0, t, method="rk4"), ulps=40)
    assert solution.iterations < 6


def test_large_states_on_two_threads():
    y0, t = torch.randn(5000, dtype=torch.float64), torch.linspace(0, 1, 41, dtype=torch.float64)
    torch.set_num_threads(2)
    try:
        ours = solve_to_the_end(field, y0, t, 8, method="rk4")
    finally:
        torch.set_num_threads(1)
    assert_equal(ours, torchdiffeq.odeint(field, y0, t, method="rk4"), ulps=10)


def test_a_grid_of_another_dtype_that_does_not_rise_everywhere():
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    grid = torch.tensor([0, 0.25, 0.5, 0.375, 0.375, 0.75, 1.0], dtype=torch.float32)
    options = {"grid_constructor": lambda f, y, t: grid, "interp": "cubic"}
    ours = solve_to_the_end(field, VECTOR, t, 4, method="heun2", options=options)
    assert_equal(ours, torchdiffeq.odeint(field, VECTOR, t, method="heun2", options=options), ulps=10)


class CallRecorder:
    """A right-hand side that records the shapes of the time and of the first leaf in every call."""

    def __init__(self, func):
        self.func, self.shapes = func, []

    def __call__(self, t, y):
        self.shapes.append((tuple(t.shape), tuple(get_leaves(y)[0].shape)))
        return self.func(t, y)


def decay(t, y):
    return -y * t


def last_axis(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, torch.sin(t) - x], -1)


def first_axis(t, y):
    return torch.stack([y[1], torch.sin(t) - y[0]])


def matrix(t, y):
    return torch.tensor([[0.0, 1.0], [-1.0, -0.2]], dtype=y.dtype) @ y


def of_all(t, y):
    return -y / (1 + y.norm())


def branch_taken_later(t, y):
    return -y if float(y.norm()) < 1.01 else -2 * y


def branch_on_equality(t, y):
    return -y if not torch.equal(y, y.abs()) else -2 * y


def branch_on_time(t, y):
    return -y if t < 0.6 else -2 * y


def squeeze_axis(t, y):
    return torch.stack([y[..., 1], -y[..., 0].squeeze()], -1)


def python_numbers(t, y):
    return torch.tensor([y[1].item(), -y[0].item()], dtype=y.dtype)


def pair(t, y):
    a, b = y
    return torch.cos(t) * b, -a


def ranks(t, y):
    a, b = y
    return -a * b, a.sum() * 0.1


VECTOR = torch.tensor([0.6, 0.8], dtype=torch.float64)
PAIR, RANKS = (VECTOR, VECTOR.flip(0)), (VECTOR, torch.tensor(0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("func", "y0", "form"),
    [
        (decay, VECTOR, "broadcast"),
        (decay, VECTOR[0], "broadcast"),
        (lambda t, y: torch.cos(t), VECTOR, "broadcast"),  # a scalar slope, which torchdiffeq adds to every entry
        (lambda t, y: torch.ones(2, dtype=y.dtype), VECTOR, "broadcast"),
        (pair, PAIR, "broadcast"),
        (squeeze_axis, VECTOR, "vmap"),  # right for three rows; a single row loses its axis
        (last_axis, VECTOR, "vector"),
        (first_axis, VECTOR, "vmap"),
        (matrix, VECTOR, "vmap"),
        (of_all, VECTOR, "vmap"),
        (ranks, RANKS, "vmap"),
        (branch_taken_later, VECTOR, "rows"),
        (branch_on_time, VECTOR, "rows"),
        (branch_on_equality, VECTOR, "rows"),
        (python_numbers, VECTOR, "rows"),
    ],
)
def test_the_probe_selects_the_form_of_func(func, y0, form):
    t = torch.linspace(0.1, 1.3, 25, dtype=torch.float64)
    recorder = CallRecorder(func)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = solve_to_the_end(recorder, y0, t, 5, method="heun3")
        shapes = [x.shape for x in y0] if isinstance(y0, tuple) else None
        flat = torch.cat([x.reshape(-1) for x in y0]) if isinstance(y0, tuple) else y0
        rhs = _batching_probe.find_form(func, shapes, t, flat)
    assert rhs.form == form
    assert_equal(ours, torchdiffeq.odeint(func, y0, t, method="heun3"), ulps=40)
    assert [w.category for w in caught] == ([UserWarning, UserWarning] if form == "rows" else [])
    t_shape, y_shape = recorder.shapes[-1]
    rank = get_leaves(y0)[0].ndim
    assert len(t_shape) == {"broadcast": rank + 1 if rank else 1, "vector": 1, "vmap": 0, "rows": 0}[form]
    assert len(y_shape) == rank + (form in ("broadcast", "vector"))


def test_the_first_call_does_not_import_a_compiler():
    """Some of torch's hooks would import it, which takes a second."""
    code = """
import sys, torch
from parareal_torchdiffeq import odeint
odeint(lambda t, y: -y, torch.ones(2), torch.linspace(0, 1, 9), method="rk4")
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


def test_the_warning_names_the_reasons():
    t = torch.linspace(0, 1, 5)
    with pytest.warns(
        UserWarning, match=r"one after the other.*broadcast: TypeError: it reads a number out of a tensor"
    ):
        odeint(branch_taken_later, VECTOR, t, method="euler")
    with pytest.warns(UserWarning, match="rows differ from calls of one row each"):
        odeint(lambda t, y: torch.rand_like(y), VECTOR, t, method="euler")


def limit_speed(t, y):
    """Return a slope with a limiter that is inactive at the start; its norm couples the rows of a batch."""
    speed = torch.stack([y[..., 1], -y[..., 0]], -1) * 3 + 0.5 * y
    return speed * torch.clamp(5 / speed.norm(), max=1.0)


def couple_rows_later(t, y):
    """Return a slope that couples the rows of a batch by its sum, but only at states that the probe does not try."""
    return torch.where(y > 3, -y.sum() * torch.ones_like(y), 0.5 * y + 1)


def couple_rows_weakly(t, y):
    """Return a slope that couples the rows of a batch by a small term, which the probe must detect."""
    return -y + 1e-7 * y.sum()


@pytest.mark.parametrize("func", [limit_speed, couple_rows_later, couple_rows_weakly])
def test_a_form_that_is_wrong_at_the_solution_is_rejected(func):
    y0, t = torch.tensor([0.1, 0.0], dtype=torch.float64), torch.linspace(0, 6, 7, dtype=torch.float64)
    options = {"method": "rk4", "options": {"step_size": 0.05}}
    ys = odeint(func, y0, t, slices=12, **options)
    torch.testing.assert_close(ys, torchdiffeq.odeint(func, y0, t, **options), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("coarse", ["auto", "euler"])
@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_counts_follow_the_laws(method, coarse, iterations):
    """Equations 10 and 11 of docs/explained/theory.md, for fine steps of s and coarse steps of c evaluations."""
    slices, steps, s, p = 6, 10, STAGES[method], iterations
    c = 1 if coarse == "euler" else s
    t = torch.linspace(0, 3, slices * steps + 1, dtype=torch.float64)
    recorder = CallRecorder(decay)
    _, solution = odeint(
        recorder,
        VECTOR,
        t[[0, -1]],
        method=method,
        options={"grid_constructor": lambda f, y, ends: t},
        slices=slices,
        coarse=coarse,
        criterion=parareal.Iterations(p),
        return_solution=True,
    )
    work = slices * c + sum((slices - j + 1) * (s * steps - 1) + (slices - j) * c for j in range(1, p + 1))
    assert solution.stats.span == p * s * steps + (slices - p) * c
    assert solution.stats.work == work
    assert solution.stats.sequential_work == s * steps * slices
    # Besides the solve: the probe makes 3 calls of one row and 2 of its form, the check at the 7 boundaries 7 and 1.
    # Both output times are boundaries, so no slice is integrated again.
    probe, check = 3 + 2, 7 + 1
    assert len(recorder.shapes) == solution.stats.calls + probe + check


def test_output_times_within_slices_cost_one_more_integration_up_to_the_last_of_them():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    points, recorder = t[[0, 3, 50, 57, 100]], CallRecorder(decay)
    _, solution = odeint(
        recorder,
        VECTOR,
        points,
        method="rk4",
        options={"grid_constructor": lambda f, y, ends: t},
        slices=10,
        return_solution=True,
    )
    # after 5 calls of the probe, the solve, and 8 + 1 of the check
    rows_per_call = [y[0] for _, y in recorder.shapes[5 + solution.stats.calls + 9 :]]
    assert rows_per_call == [2] * 4 * 3 + [1] * 4 * 4  # slices 0 and 5 up to step 3, then slice 5 up to step 7


def test_callbacks_and_solutions_have_states_in_the_users_form():
    refinements = []
    t = torch.linspace(0, 1, 17, dtype=torch.float64)
    ys, solution = odeint(pair, PAIR, t, method="rk4", slices=4, callback=refinements.append, return_solution=True)
    for states in (solution.states, refinements[-1].states):
        assert isinstance(states, tuple)
        assert [x.shape for x in states] == [(5, 2), (5, 2)]
    for x, y in zip(solution.final_state, ys, strict=True):
        assert torch.equal(x, y[-1])
    assert solution.boundaries == [0, 4, 8, 12, 16]


@pytest.mark.parametrize("result", [False, 0, np.False_, torch.tensor(False), ""])
def test_callbacks_cancel_by_any_false_value(result):
    options = {"method": "rk4", "slices": 4, "throw": False, "return_solution": True}
    _, solution = odeint(field, VECTOR, T, callback=lambda r: result, **options)
    assert solution.outcome is parareal.Outcome.CANCELLED
    with pytest.raises(TypeError, match=r"callback returned Tensor of shape \(2,\)"):
        odeint(field, VECTOR, T, callback=lambda r: r.final_state, **options)


@pytest.mark.parametrize("wrap", [lambda f: f, parareal.vectorized])
def test_own_coarse_propagators_receive_the_users_states_and_times(wrap):
    t, intervals = torch.linspace(2, 0, 17, dtype=torch.float64), []

    def coarse(y, t0, t1):
        intervals.append((float(t0.reshape(-1)[0]), float(t1.reshape(-1)[0])))
        a, b = y
        h = (t1 - t0).reshape(-1, *[1] * (a.ndim - 1)) if a.ndim > 1 else t1 - t0
        return a + h * b, b - h * a

    ys, solution = odeint(pair, PAIR, t, method="rk4", slices=4, coarse=wrap(coarse), return_solution=True)
    assert_equal(ys, torchdiffeq.odeint(pair, PAIR, t, method="rk4"), ulps=1e9)
    assert intervals[:4] == [(2.0, 1.5), (1.5, 1.0), (1.0, 0.5), (0.5, 0.0)]
    assert solution.outcome in (parareal.Outcome.CONVERGED, parareal.Outcome.EXACT)


def test_own_coarse_steppers_are_used_unchanged():
    class Motionless(parareal.Stepper):
        def __init__(self):
            self.evaluate = lambda y, t: y * 0

        def step(self, state, memory, start, stop):
            slope = yield state, start
            return state + slope, memory

    t = torch.linspace(0, 1, 17, dtype=torch.float64)
    ours = solve_to_the_end(decay, VECTOR, t, 4, method="rk4", coarse=parareal.Steps(Motionless(), 1))
    assert_equal(ours, torchdiffeq.odeint(decay, VECTOR, t, method="rk4"), ulps=10)


def test_errors_carry_states_in_the_users_form():
    t = torch.linspace(0, 3, 33, dtype=torch.float64)
    with pytest.raises(parareal.PararealError, match="not finite") as error_info:
        odeint(lambda t, y: 1e30 * y**3, VECTOR, t, method="rk4", slices=4)
    assert isinstance(error_info.value.solution.states, torch.Tensor)

    failing = CallRecorder(decay)
    failing.func = lambda t, y: decay(t, y) if len(failing.shapes) < 50 else {}["broken"]
    with pytest.raises(parareal.PararealError, match="broken") as error_info:
        odeint(failing, VECTOR, t, method="rk4", slices=4)
    assert isinstance(error_info.value.__cause__, KeyError)
    failing.shapes.clear()
    ys = odeint(failing, VECTOR, t, method="rk4", slices=4, throw=False)
    assert torch.equal(ys[0], VECTOR)
    assert ys[[1, 31]].isnan().all()
    ys = odeint(lambda t, y: y**3, VECTOR, t, method="rk4", slices=4, max_iterations=0, throw=False)
    assert ys.shape == (33, 2)


def test_the_smallest_tolerance_of_the_leaves_counts():
    t = torch.linspace(0, 2, 65, dtype=torch.float64)
    iterations = [
        odeint(pair, PAIR, t, method="rk4", slices=16, rtol=rtol, atol=0.0, return_solution=True)[1].iterations
        for rtol in ((1e-2, 1e-12), torch.tensor(1e-12), 1e-12, 1e-2)
    ]
    assert iterations[0] == iterations[1] == iterations[2] > iterations[3]


T = torch.linspace(0, 1, 9, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": None}, ValueError, "the default of torchdiffeq, dopri5, is adaptive: .* 'rk4'"),
        ({"method": "dopri8"}, ValueError, "'dopri8' is adaptive: its steps depend on the trajectory"),
        ({"method": "scipy_solver"}, ValueError, "'scipy_solver' is adaptive"),
        ({"method": "implicit_adams"}, ValueError, "slopes of earlier steps, .* call torchdiffeq.odeint"),
        ({"method": "fixed_adams"}, ValueError, "slopes of earlier steps"),
        ({"method": "explicit_adams"}, ValueError, "slopes of earlier steps"),
        ({"method": "rk5"}, ValueError, "did you mean 'rk4'"),
        ({"event_fn": lambda t, y: y[0]}, ValueError, "event_fn is unsupported.*torchdiffeq.odeint"),
        ({"slice": 3}, TypeError, "unexpected keyword argument 'slice'"),
        ({"options": {"stepsize": 0.1}}, ValueError, "did you mean 'step_size'"),
        ({"options": {"interp": "cubi"}}, ValueError, "did you mean 'cubic'"),
        ({"options": {"step_size": -0.1}}, ValueError, "step_size must be positive"),
        ({"options": {"step_size": 0.1, "grid_constructor": lambda f, y, t: t}}, ValueError, "exclude each other"),
        ({"options": {"grid_constructor": lambda f, y, t: t[:-1]}}, ValueError, r"ends with t\[-1\]"),
        ({"slices": 9}, ValueError, "between 1 and the 8 steps"),
        ({"slices": 0}, ValueError, "slices must be a whole number of at least 1"),
        ({"slices": "sqr"}, ValueError, "did you mean 'sqrt'"),
        ({"slices": 4, "levels": (2, 2)}, ValueError, "leave slices=4 out"),
        ({"coarse": "rk4", "method": "heun3"}, ValueError, "coarse must be one of .*'heun3', not 'rk4'"),
        ({"coarse": 3}, TypeError, "coarse must be 'auto'"),
        ({"rtol": -1.0}, ValueError, "rtol must be a finite real number, at least 0 and below 1, but was -1.0"),
        *(({"rtol": x}, ValueError, "rtol must be .* but was") for x in (1, 5.0, np.inf, np.nan)),
        *(
            ({"rtol": x}, TypeError, "rtol must be")
            for x in (True, "1e-3", 1e-3j, None, torch.tensor(True), (), [None])
        ),
        *(
            ({"rtol": x}, ValueError, "rtol must be")
            for x in ((1e-3, 2.0), torch.tensor([1e-3, torch.nan]), np.ones(2))
        ),
        *(({"atol": x}, ValueError, "atol must be .* at least 0, but was") for x in (-1e-9, np.inf, np.nan, (1, -1))),
        *(({"atol": x}, TypeError, "atol must be") for x in (True, "0", 0j, torch.zeros(2, dtype=torch.complex64))),
        ({"rtol": True, "criterion": parareal.Iterations(2)}, TypeError, "rtol must be"),
        ({"rtol": 5.0, "options": {"grid_constructor": lambda *_: pytest.fail("called")}}, ValueError, "rtol must be"),
        ({"rtol": 0, "atol": 0}, ValueError, "raise rtol"),
        ({"callback": 3, "slices": 2}, TypeError, "callback must be a function"),
        ({"y0": [1.0]}, TypeError, "a tensor or a tuple of tensors, not list"),
        ({"y0": torch.tensor([1, 2])}, ValueError, "y0 must be of a floating"),
        ({"y0": VECTOR.clone().requires_grad_()}, ValueError, "y0.detach()"),
        ({"t": T.clone().requires_grad_()}, ValueError, "odeint_adjoint"),
        ({"t": T[:1]}, ValueError, "two points or more"),
        ({"t": torch.tensor([0.0, 1.0, 1.0])}, ValueError, "rise or fall strictly"),
        ({"t": torch.tensor([0.0, float("nan")])}, ValueError, "be finite"),
        ({"t": torch.arange(4)}, ValueError, "floating dtype"),
        ({"func": 1.0}, TypeError, "func must be a function"),
        ({"func": lambda t, y: y.float()}, ValueError, "returned torch.float32 for a state of torch.float64"),
        ({"func": lambda t, y: y[:1].repeat(3)}, ValueError, r"returned shape \(3,\) for a state of shape \(2,\)"),
        ({"func": lambda t, y: [1.0, 2.0]}, ValueError, "func must return tensors"),
    ],
)
def test_errors_name_the_remedy(arguments, error, message):
    calls = []
    call_arguments = {"func": lambda t, y: calls.append(1) or -y, "y0": VECTOR, "t": T, "method": "rk4", **arguments}
    with pytest.raises(error, match=message):
        odeint(call_arguments.pop("func"), call_arguments.pop("y0"), call_arguments.pop("t"), **call_arguments)
    assert not calls


def test_gradients_are_refused_or_dropped_with_a_warning():
    net = torch.nn.Linear(2, 2).double()
    with pytest.warns(UserWarning, match="detached from func's parameters"):
        ys = odeint(TanhNetwork(net), VECTOR, T, method="rk4")
    assert not ys.requires_grad
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        again = odeint(TanhNetwork(net), VECTOR.clone().requires_grad_(), T, method="rk4")
    assert torch.equal(ys, again)


class TanhNetwork(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, t, y):
        return self.net(y).tanh()


@pytest.mark.parametrize("options", [{"levels": (2, 2)}, {"levels": (3, 2), "window": 2}, {"window": 2}])
def test_levels_and_windows_give_the_same_answer(options):
    ours = odeint(decay, VECTOR, T, method="rk4", **options)
    torch.testing.assert_close(ours, torchdiffeq.odeint(decay, VECTOR, T, method="rk4"), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
def test_tolerances_are_met_with_embedded_methods(method):
    """Embedded steps of lower order estimate the error of the coarse prediction; the result stays torchdiffeq's."""

    def slope(t, u):
        return torch.stack([u[1], -torch.sin(u[0]) - 0.1 * u[1] + torch.cos(t) / 2])

    start, times = torch.tensor([1.0, 0.3], dtype=torch.float64), torch.tensor([0.0, 8.0], dtype=torch.float64)
    options = {"method": method, "options": {"step_size": 8 / 512}}
    expected = torchdiffeq.odeint(slope, start, times, **options)[-1]
    for rtol in (1e-1, 1e-2, 1e-3):
        estimates = []
        ys, solution = odeint(
            slope,
            start,
            times,
            criterion=parareal.Tolerance(rtol),
            callback=lambda r, record=estimates: record.append(float(r.error_estimate[0])),
            return_solution=True,
            **options,
        )
        assert torch.isfinite(torch.tensor(estimates[0])) == (method != "euler")
        assert (ys[-1] - expected).norm() <= 2 * rtol * expected.norm()
        counts = odeint(
            slope, start, times, criterion=parareal.Iterations(0), coarse=method, return_solution=True, **options
        )[1].stats
        assert solution.iterations > 0 or solution.stats.span == counts.span  # the embedded method adds no evaluation


def test_auto_uses_slices_where_they_pay():
    def van_der_pol(t, u):
        x, v = u.unbind(-1)
        return torch.stack([v, 2 * (1 - x * x) * v - x], -1)

    t, u = torch.tensor([0.0, 20.0], dtype=torch.float64), torch.tensor([2.0, 0.0], dtype=torch.float64)
    ys, solution = odeint(van_der_pol, u, t, method="rk4", options={"step_size": 20 / 8192}, return_solution=True)
    assert len(solution.boundaries) > 10
    expected = torchdiffeq.odeint(van_der_pol, u, t, method="rk4", options={"step_size": 20 / 8192})
    torch.testing.assert_close(ys, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("state", [VECTOR, PAIR], ids=["tensor", "tuple"])
def test_auto_is_sequential_where_batching_gains_nothing(state):
    calls = []

    def slow(t, y):  # takes a time proportional to the number of rows
        x = y if isinstance(y, torch.Tensor) else y[0]
        rows = 1 if x.ndim == VECTOR.ndim else len(x)
        calls.append(rows)
        time.sleep(1e-3 * rows)
        return -y if isinstance(y, torch.Tensor) else tuple(-x for x in y)

    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    ys, solution = odeint(slow, state, t, method="midpoint", return_solution=True)
    expected = torchdiffeq.odeint(lambda t, y: slow(t, y), state, t, method="midpoint")
    for own, other in zip(*([x] if isinstance(x, torch.Tensor) else x for x in (ys, expected)), strict=True):
        assert torch.equal(own, other)
    assert "Solved sequentially" in solution.message
    assert solution.stats.work == solution.stats.sequential_work == 80
    calls.clear()
    odeint(slow, state, t, method="midpoint")  # the advisor is kept: only torchdiffeq's loop calls the function now
    assert calls == [1] * 80


def test_auto_is_sequential_for_a_single_step():
    ys = odeint(lambda t, y: -y, VECTOR, T[:2], method="rk4")
    assert torch.equal(ys, torchdiffeq.odeint(lambda t, y: -y, VECTOR, T[:2], method="rk4"))


class SlowRhs(CallRecorder):
    """A right-hand side that takes the same time for one row and for many, so that slices pay."""

    def __call__(self, t, y):
        time.sleep(1e-3)
        return super().__call__(t, y)


def cubic_decay(t, u):
    return -(u**3)


def test_slices_that_gained_nothing_are_tried_again_on_shorter_intervals_only():
    """Coarse steps much longer than 2 overshoot, by a factor that grows from step to step, until they overflow.

    The fine steps stand in for them, so the first result is right, but it takes at least as long as torchdiffeq's loop.
    """
    func, u = SlowRhs(cubic_decay), VECTOR

    def solve(end):
        func.shapes.clear()
        t, options = torch.tensor([0.0, end], dtype=torch.float64), {"step_size": end / 256}
        ys, solution = odeint(func, u, t, method="euler", options=options, return_solution=True, throw=False)
        reference = torchdiffeq.odeint(cubic_decay, u, t, method="euler", options=options)
        torch.testing.assert_close(ys, reference, rtol=1e-6, atol=0.0)
        return solution

    assert "an iterate was not finite and the fine result stood in" in solve(200.0).message
    assert len(func.shapes) > 256
    for end in (200.0, 300.0):
        assert "parallel-in-time failed before" in solve(end).message
        assert len(func.shapes) == 256  # the steps of torchdiffeq's loop
    assert len(solve(2.0).boundaries) > 10


def test_auto_stops_using_slices_that_were_slower_twice_in_a_row():
    func, t = SlowRhs(cubic_decay), torch.tensor([0.0, 2.0], dtype=torch.float64)
    problem = FixedGridProblem.create(func, VECTOR, t, 1e-7, 1e-9, "euler", {"step_size": 2 / 256})
    assert _slice_count.choose_slices(func, problem)[0] > 1
    for seconds in (1e9, 1e-9, 1e9):
        _slice_count.record_time(func, problem, seconds)
        assert _slice_count.choose_slices(func, problem)[0] > 1
    _slice_count.record_time(func, problem, 1e9)
    assert _slice_count.choose_slices(func, problem) == (1, None)


class SlopeOwner:
    """An owner of a right-hand side that is a method. Python makes a new method object at every access."""

    def __init__(self):
        self.calls = 0

    def slope(self, t, y):
        self.calls += 1
        return torch.cos(t) - y


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_a_repeated_sequential_call_evaluates_func_as_often_as_torchdiffeq(method, backwards):
    owner, other = SlopeOwner(), SlopeOwner()
    t = torch.tensor([0.0, 0.33, 0.9, 1.0], dtype=torch.float64)
    t = t.flip(0) if backwards else t
    # four steps are too few for slices
    arguments = {"method": method, "options": {"step_size": 0.3, "interp": "cubic"}}
    odeint(owner.slope, VECTOR, t, **arguments)
    owner.calls = 0
    ours, solution = odeint(owner.slope, VECTOR, t, **arguments, return_solution=True)
    assert torch.equal(ours, torchdiffeq.odeint(other.slope, VECTOR, t, **arguments))
    assert owner.calls == other.calls
    assert torch.equal(solution.final_state, ours[-1])
    assert solution.stats.wall_time > 0


def test_auto_leaves_cuda_alone_for_problems_on_the_cpu(monkeypatch):
    def refuse(*_):
        raise AssertionError("CUDA was initialised")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    odeint(lambda t, y: -y, VECTOR, torch.linspace(0, 1, 41, dtype=torch.float64), method="euler")


def test_a_sequential_solve_that_fails_is_made_once():
    calls = []

    def explodes(t, y):
        calls.append(1)
        return y**3 * 1e4

    for _ in range(2):
        calls.clear()
        with pytest.raises(parareal.PararealError, match="not finite") as error:
            odeint(explodes, VECTOR, torch.linspace(0, 1, 4, dtype=torch.float64), method="rk4")
    assert len(calls) == 3 * 4
    assert error.value.solution.stats.wall_time > 0


def test_sqrt_is_the_same_number_of_slices_in_every_run():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    results = [odeint(field, VECTOR, t, method="rk4", slices="sqrt", return_solution=True) for _ in range(3)]
    assert {len(solution.boundaries) for _, solution in results} == {11}
    assert all(torch.equal(ys, results[0][0]) for ys, _ in results)


@pytest.mark.parametrize("return_solution", [False, True])
def test_a_sequential_solve_reports_a_final_state_that_is_not_finite(return_solution):
    def explodes(t, y):
        return y**3 * 1e4

    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    for _ in range(2):
        with pytest.raises(parareal.PararealError, match="not finite"):
            odeint(explodes, 1e3 * VECTOR, t, method="rk4", return_solution=return_solution)
        ys = odeint(explodes, 1e3 * VECTOR, t, method="rk4", return_solution=return_solution, throw=False)
        assert not torch.isfinite((ys[0] if return_solution else ys)[-1]).all()
