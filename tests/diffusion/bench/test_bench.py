"""The comparison: baselines against the sequential loop and the engine, tables, cached runs, and the short form."""

import argparse
import functools

import pytest
import torch
from parareal_diffusers import picard, sample
from parareal_diffusers.bench import METHODS, BenchProblem, chords, paradigms, parataa
from parareal_diffusers.bench.baselines.ours import count_costs
from parareal_diffusers.bench.cases.memory import CachingNetwork
from parareal_diffusers.bench.cases.problems import build_mixture
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target
from parareal_diffusers.bench.harness.cells import RunSummary, find_dominations, find_frontier, summarize
from parareal_diffusers.bench.harness.collect import MethodRuns, RunSelection, RunStore, TableKey, collect
from parareal_diffusers.bench.harness.command import command
from parareal_diffusers.bench.harness.tables import format_speedups
from parareal_diffusers.bench.harness.timing import wall_key
from parareal_diffusers.testing import relative_error, scheduler_loop

import parareal

STEPS = 20
END = Stop("oracle", 0.0)


class StoringTarget(Target):
    """A target that also stores the iterates themselves, in `ITERATES`."""

    def record(self, state, *numbers):
        ITERATES.append(state.clone())
        return super().record(state, *numbers)


ITERATES: list[torch.Tensor] = []


@pytest.fixture(scope="module")
def problem() -> BenchProblem:
    return build_mixture(1)


@pytest.fixture(scope="module")
def target(problem):
    network = problem.build_network(STEPS)
    return Target(scheduler_loop(network, problem.latents, problem.scheduler_for(STEPS), STEPS))


RUNS = {
    "ParaDiGMS": lambda window: lambda p, t, s: paradigms(p, t, s, window),
    "ParaTAA": lambda window: lambda p, t, s: parataa(p, t, s, window, order=6, memory=3),
    "ParaTAA of order one": lambda window: lambda p, t, s: parataa(p, t, s, window, order=1, memory=2),
    "CHORDS": lambda window: lambda p, t, s: chords(p, t, s, (0.0, 0.2, 0.5)),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("window", [7, STEPS])
def test_baselines_that_run_to_the_end_equal_the_unmodified_scheduler(name, window, problem, target):
    iterates = RUNS[name](window)(problem.build_parts(STEPS), target, END)
    assert iterates[-1].error < 1e-6  # the scheduler's coefficients are float32
    assert iterates[-1].span <= STEPS
    assert iterates[0].error > 1e-2  # the target is not met from the start


@pytest.mark.parametrize("name", ["ParaDiGMS", "ParaTAA"])
def test_a_window_of_one_is_the_sequential_sampler(name, problem, target):
    last = RUNS[name](1)(problem.build_parts(STEPS), target, Stop("increment", 1e-1))[-1]
    assert (last.span, last.work, last.peak) == (STEPS, STEPS, 1)
    assert last.error < 1e-6


def test_picard_on_the_engine_has_the_iterates_of_the_paradigms_loop(problem, target):
    states: list[torch.Tensor] = []
    positional, named = problem.build_arguments(STEPS)
    stop = parareal.Iterations(8)
    solution = sample(*positional, **named, **picard(), criterion=stop, callback=lambda r: states.append(r.final_state))
    ITERATES.clear()
    paradigms(problem.build_parts(STEPS), StoringTarget(target.state), END, STEPS)
    assert len(states) == 9
    for state, iterate in zip(states, ITERATES, strict=False):
        assert relative_error(iterate, state) < 1e-9
    records = paradigms(problem.build_parts(STEPS), target, END, STEPS)
    assert solution.stats.span == records[8].span


def test_parataa_of_full_order_without_memory_is_picard_iteration_in_scaled_coordinates(problem, target):
    ITERATES.clear()
    parataa(problem.build_parts(STEPS), StoringTarget(target.state), END, STEPS, order=STEPS, memory=1)
    grid = problem.build_parts(STEPS).grid
    ratio = grid.stop.alpha.double() / grid.start.alpha.double()
    x = [problem.latents] * (STEPS + 1)
    for state in ITERATES[:4]:
        assert relative_error(state, x[-1]) < 1e-9
        next_states = [_step(problem, n, x[n]) for n in range(STEPS)]
        new = [x[0]]
        for n in range(STEPS):  # x' = a x + d, with d from the previous iterate
            new.append(ratio[n] * new[-1] + next_states[n] - ratio[n] * x[n])
        x = new


def _step(problem, n, x):
    from parareal_diffusers.bench.baselines.window import CountingSampler

    sampler, node = CountingSampler(problem.build_parts(STEPS)), torch.tensor([n])
    return sampler.step(x, node, node + 1, sampler.evaluate(x, node))


def test_anderson_solves_a_linear_problem_with_one_unknown_direction_in_two_iterations():
    from parareal_diffusers.bench.baselines.parataa import Anderson, WindowIterate

    anderson = Anderson(memory=3)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64) * 1e3  # large compared with the ridge
    fixed, x = torch.zeros(4, 1, 8, 8, dtype=torch.float64), direction.clone()
    for _ in range(2):  # R = -x / 2 along one direction: one difference determines it
        residual = -0.5 * (x - fixed)
        correction = anderson(WindowIterate(3, 7, x, residual))
        x = x + residual - correction
    assert x.norm() < 1e-3 * direction.norm()


def test_chords_results_improve_and_come_at_the_predicted_spans(problem, target):
    fractions = (0.0, 0.2, 0.5)
    iterates = chords(problem.build_parts(STEPS), target, END, fractions)
    starts = [0, 4, 10]
    # core i starts after i ticks and has STEPS - start steps to make
    assert [x.span for x in iterates[1:]] == [STEPS - s + i for i, s in reversed(list(enumerate(starts)))]
    assert iterates[0].span == len(starts)
    assert [x.error for x in iterates] == sorted((x.error for x in iterates), reverse=True)
    with pytest.raises(ValueError, match="rise from 0"):
        chords(problem.build_parts(STEPS), target, END, (0.1, 0.5))


def test_costs_of_iterations_follow_the_theory():
    slices, length = 5, 5
    for p in (0, 1, 2, 3):
        stats = count_costs(slices * length, p, (("slices", slices), ("coarse", "same")))
        assert stats.span == (p * length + slices - p if p else slices)  # docs/explained/theory.md, eq. 9
        work = slices + sum((slices - j + 1) * (length - 1) + slices - j for j in range(1, p + 1))
        assert stats.work == work


def test_a_caching_network_evaluates_each_row_once_and_returns_the_same_output():
    class RowCountingNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.rows = torch.nn.Parameter(torch.ones(())), 0

        def forward(self, x, t, label):
            self.rows += len(x)
            return x * self.weight + t[:, None] + label[:, None]

    net, x = RowCountingNet(), torch.randn(3, 4)
    caching, t, label = CachingNetwork(net), torch.tensor([1, 2, 3]), torch.tensor([0, 0, 1])
    first = caching(x, t, label=label)
    assert torch.equal(first, net(x, t, label))
    net.rows = 0
    assert torch.equal(caching(x[[2, 0]], t[[2, 0]], label=label[[2, 0]]), first[[2, 0]])
    assert net.rows == 0
    caching(x, t, label=label + 1)
    assert net.rows == 3


def test_the_pareto_frontier_and_the_settings_of_ours_that_are_dominated():
    def summary(span, work):
        return RunSummary.of([Iterate(1, span, work, 1, 1, 1e-3)])

    summaries = [summary(10, 3), summary(5, 6), summary(7, 7), summary(12, 2)]
    assert find_frontier(summaries) == [summary(5, 6), summary(10, 3), summary(12, 2)]
    ours, srds = METHODS["ours: automatic jumps, many slices"], METHODS["SRDS, pipelined"]
    for span, pairs in ((9, [("SRDS, pipelined", ours.name)]), (11, [])):
        runs = {(0, Stop("oracle", 1e-3)): [Iterate(1, 10, 30, 1, 1, 1e-3)]}
        theirs = {(0, Stop("oracle", 1e-3)): [Iterate(1, span, 20, 1, 1, 1e-3)]}
        results = [MethodRuns(ours, runs), MethodRuns(srds, theirs)]
        assert find_dominations(results, "oracle", 1e-2, 1) == pairs


def test_speed_ups_are_listed_by_method_and_steps_and_marked_where_an_error_is_too_large():
    tables = {
        TableKey("mixture", steps): [MethodRuns(METHODS[n]) for n in ("SRDS, pipelined", "CHORDS, 4 cores")]
        for steps in (25, 100)
    }
    key = functools.partial(wall_key, method=METHODS["SRDS, pipelined"])
    walls = {key(TableKey("mixture", 25)): [2.0, 1.5, 2.5, 1e-3], key(TableKey("mixture", 100)): [3.0, 2.5, 3.5, 2e-2]}
    walls |= {key.replace("sqrt", "7"): [9.0, 9.0, 9.0, 9.0] for key in walls}  # times of other settings are not shown
    (table,) = format_speedups(tables, ["mixture", "maze"], walls)
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == ["method", "N=25", "N=100"]
    assert rows[2:] == [["SRDS, pipelined", "2.00 (1.50 to 2.50)", "3.00 (2.50 to 3.50) !"]]


def test_stored_runs_are_not_made_again(tmp_path, monkeypatch):
    selection = RunSelection(["mixture"], [16], ["SRDS, pipelined", "CHORDS, 4 cores"], 1, [1e-2])
    (first,) = collect(selection, RunStore(tmp_path)).values()
    assert summarize(first[0], "increment", 1e-2, 1) is not None
    for result in first:
        monkeypatch.setitem(METHODS, result.method.name, _fail_to_run(result.method))
    (again,) = collect(selection, RunStore(tmp_path)).values()
    assert [result.runs for result in again] == [result.runs for result in first]


def _fail_to_run(method):
    from dataclasses import replace

    return replace(method, run=lambda *_: pytest.fail("ran again"))


def test_the_short_form_prints_and_writes_all_tables(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    run = command(parser)
    options = ["--short", "--time", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert run(parser.parse_args(options)) == 0
    printed = capsys.readouterr().out
    for name in METHODS:
        if METHODS[name].settings(25) is not None:
            assert f"| {name} " in printed
    assert "both less span and less work than our best" in printed
    assert "speed-up over the sequential loop: the median of five runs" in printed
    page = (tmp_path / "out" / "bench.md").read_text()
    assert page.count(" to ") >= sum(m.settings(25) is not None for m in METHODS.values())  # ranges of speed-ups
    assert page.count("as run: increment") == sum(m.settings(25) is not None for m in METHODS.values())
    assert (tmp_path / "out" / "frontier-mixture.png").stat().st_size > 10_000


def test_the_command_refuses_invalid_options(tmp_path):
    parser = argparse.ArgumentParser()
    run = command(parser)
    for options, message in (
        (["--tolerances", "1e-5"], "at least"),
        (["--steps", "4"], "between"),
        (["--samples", "0"], "at least 1"),
        (["--methods", "none"], "parts of"),
        (["--device", "toaster"], "such as cpu or cuda, not toaster"),
    ):
        with pytest.raises(ValueError, match=message):
            run(parser.parse_args([*options, "--cache", str(tmp_path), "--out", str(tmp_path)]))
