"""The harness: baselines against the sequential loop, the engine and diffusers' own pipeline; the short form."""

import argparse
import functools

import pytest
import torch
from parareal_diffusers import picard, sample
from parareal_diffusers.bench import METHODS, Problem, chords, paradigms, parataa
from parareal_diffusers.bench.baselines.ours import costs
from parareal_diffusers.bench.cases.memory import Remembering
from parareal_diffusers.bench.cases.problems import mixture
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target
from parareal_diffusers.bench.harness.cells import Cell, beaten, cell, frontier
from parareal_diffusers.bench.harness.collect import Choice, Found, Store, Where, collect
from parareal_diffusers.bench.harness.command import command
from parareal_diffusers.bench.harness.tables import wall_ratios
from parareal_diffusers.bench.harness.timing import wall_key
from parareal_diffusers.testing import relative_error, scheduler_loop

import parareal

STEPS = 20
END = Stop("oracle", 0.0)


class Keeping(Target):
    """A target that keeps the iterates themselves."""

    def iterate(self, state, *numbers):
        KEPT.append(state.clone())
        return super().iterate(state, *numbers)


KEPT: list[torch.Tensor] = []


@pytest.fixture(scope="module")
def problem() -> Problem:
    return mixture(1)


@pytest.fixture(scope="module")
def target(problem):
    KEPT.clear()
    network = problem.network(STEPS)
    return Target(scheduler_loop(network, problem.latents, problem.scheduler_for(STEPS), STEPS))


RUNS = {
    "ParaDiGMS": lambda window: lambda p, t, s: paradigms(p, t, s, window),
    "ParaTAA": lambda window: lambda p, t, s: parataa(p, t, s, window, order=6, memory=3),
    "ParaTAA of order one": lambda window: lambda p, t, s: parataa(p, t, s, window, order=1, memory=2),
    "CHORDS": lambda window: lambda p, t, s: chords(p, t, s, (0.0, 0.2, 0.5)),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("window", [7, STEPS])
def test_run_to_the_end_baselines_equal_the_unmodified_scheduler(name, window, problem, target):
    iterates = RUNS[name](window)(problem.parts(STEPS), target, END)
    assert iterates[-1].error < 1e-6  # the scheduler's coefficients are float32
    assert iterates[-1].span <= STEPS
    assert iterates[0].error > 1e-2  # the target is not met from the start


@pytest.mark.parametrize("name", ["ParaDiGMS", "ParaTAA"])
def test_a_window_of_one_is_the_sequential_sampler(name, problem, target):
    last = RUNS[name](1)(problem.parts(STEPS), target, Stop("increment", 1e-1))[-1]
    assert (last.span, last.work, last.peak) == (STEPS, STEPS, 1)
    assert last.error < 1e-6


def test_picard_on_the_engine_makes_the_iterates_of_the_loop(problem, target):
    states: list[torch.Tensor] = []
    given, named = problem.arguments(STEPS)
    stop = parareal.Iterations(8)
    found = sample(*given, **named, **picard(), criterion=stop, callback=lambda r: states.append(r.final_state))
    KEPT.clear()
    paradigms(problem.parts(STEPS), Keeping(target.state), END, STEPS)
    assert len(states) == 9
    for state, kept in zip(states, KEPT, strict=False):
        assert relative_error(kept, state) < 1e-9
    records = paradigms(problem.parts(STEPS), target, END, STEPS)
    assert found.stats.span == records[8].span


def test_parataa_without_memory_and_of_full_order_is_picard_iteration_in_its_own_coordinates(problem, target):
    KEPT.clear()
    parataa(problem.parts(STEPS), Keeping(target.state), END, STEPS, order=STEPS, memory=1)
    grid = problem.parts(STEPS).grid
    ratio = grid.stop.alpha.double() / grid.start.alpha.double()
    x = [problem.latents] * (STEPS + 1)
    for state in KEPT[:4]:
        assert relative_error(state, x[-1]) < 1e-9
        stepped = [_step(problem, n, x[n]) for n in range(STEPS)]
        new = [x[0]]
        for n in range(STEPS):  # x' = a x + d, with d from the iterate before
            new.append(ratio[n] * new[-1] + stepped[n] - ratio[n] * x[n])
        x = new


def _step(problem, n, x):
    from parareal_diffusers.bench.baselines.window import Counted

    counted, node = Counted(problem.parts(STEPS)), torch.tensor([n])
    return counted.step(x, node, node + 1, counted.evaluate(x, node))


def test_anderson_solves_a_linear_problem_in_as_many_iterations_as_it_has_unknown_directions():
    from parareal_diffusers.bench.baselines.parataa import Anderson, Seen

    anderson = Anderson(memory=3)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64) * 1e3  # large beside the ridge
    fixed, x = torch.zeros(4, 1, 8, 8, dtype=torch.float64), direction.clone()
    for _ in range(2):  # R = -x / 2 along one direction: one difference says all
        residual = -0.5 * (x - fixed)
        correction = anderson(Seen(3, 7, x, residual))
        x = x + residual - correction
    assert x.norm() < 1e-3 * direction.norm()


def test_chords_streams_ever_better_results_when_it_says(problem, target):
    fractions = (0.0, 0.2, 0.5)
    found = chords(problem.parts(STEPS), target, END, fractions)
    starts = [0, 4, 10]
    # core i is started i ticks late, and has its way to go
    assert [x.span for x in found[1:]] == [STEPS - s + i for i, s in reversed(list(enumerate(starts)))]
    assert found[0].span == len(starts)
    assert [x.error for x in found] == sorted((x.error for x in found), reverse=True)
    with pytest.raises(ValueError, match="rise from 0"):
        chords(problem.parts(STEPS), target, END, (0.1, 0.5))


def test_costs_of_iterations_are_those_of_the_theory():
    slices, length = 5, 5
    for p in (0, 1, 2, 3):
        stats = costs(slices * length, p, (("slices", slices), ("coarse", "same")))
        assert stats.span == (p * length + slices - p if p else slices)  # docs/explained/theory.md, eq. 9
        work = slices + sum((slices - j + 1) * (length - 1) + slices - j for j in range(1, p + 1))
        assert stats.work == work


def test_a_remembering_network_is_asked_once_and_says_the_same():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.rows = torch.nn.Parameter(torch.ones(())), 0

        def forward(self, x, t, label):
            self.rows += len(x)
            return x * self.weight + t[:, None] + label[:, None]

    net, x = Net(), torch.randn(3, 4)
    remembering, t, label = Remembering(net), torch.tensor([1, 2, 3]), torch.tensor([0, 0, 1])
    first = remembering(x, t, label=label)
    assert torch.equal(first, net(x, t, label))
    net.rows = 0
    assert torch.equal(remembering(x[[2, 0]], t[[2, 0]], label=label[[2, 0]]), first[[2, 0]])
    assert net.rows == 0
    remembering(x, t, label=label + 1)
    assert net.rows == 3


def test_frontiers_and_who_is_beaten():
    def at(span, work):
        return Cell.of([Iterate(1, span, work, 1, 1, 1e-3)])

    cells = [at(10, 3), at(5, 6), at(7, 7), at(12, 2)]
    assert frontier(cells) == [at(5, 6), at(10, 3), at(12, 2)]
    ours, srds = METHODS["ours: automatic jumps, many slices"], METHODS["SRDS, pipelined"]
    for span, pairs in ((9, [("SRDS, pipelined", ours.name)]), (11, [])):
        runs = {(0, Stop("oracle", 1e-3)): [Iterate(1, 10, 30, 1, 1, 1e-3)]}
        theirs = {(0, Stop("oracle", 1e-3)): [Iterate(1, span, 20, 1, 1, 1e-3)]}
        found = [Found(ours, runs), Found(srds, theirs)]
        assert beaten(found, "oracle", 1e-2, 1) == pairs


def test_wall_ratios_are_told_by_method_and_steps_and_say_where_an_error_is_too_large():
    tables = {
        Where("mixture", steps): [Found(METHODS[n]) for n in ("SRDS, pipelined", "CHORDS, 4 cores")]
        for steps in (25, 100)
    }
    key = functools.partial(wall_key, method=METHODS["SRDS, pipelined"])
    walls = {key(Where("mixture", 25)): [2.0, 1.5, 2.5, 1e-3], key(Where("mixture", 100)): [3.0, 2.5, 3.5, 2e-2]}
    walls |= {key.replace("sqrt", "7"): [9.0, 9.0, 9.0, 9.0] for key in walls}  # of other settings
    (table,) = wall_ratios(tables, ["mixture", "maze"], walls)
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == ["method", "N=25", "N=100"]
    assert rows[2:] == [["SRDS, pipelined", "2.00 (1.50 to 2.50)", "3.00 (2.50 to 3.50) !"]]


def test_runs_go_on_where_they_ended(tmp_path, monkeypatch):
    choice = Choice(["mixture"], [16], ["SRDS, pipelined", "CHORDS, 4 cores"], 1, [1e-2])
    (first,) = collect(choice, Store(tmp_path)).values()
    assert cell(first[0], "increment", 1e-2, 1) is not None
    for method in first:
        monkeypatch.setitem(METHODS, method.method.name, _never(method.method))
    (again,) = collect(choice, Store(tmp_path)).values()
    assert [f.runs for f in again] == [f.runs for f in first]


def _never(method):
    from dataclasses import replace

    return replace(method, run=lambda *_: pytest.fail("ran again"))


def test_the_short_form(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    run = command(parser)
    options = ["--short", "--time", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert run(parser.parse_args(options)) == 0
    printed = capsys.readouterr().out
    for name in METHODS:
        if METHODS[name].settings(25) is not None:
            assert f"| {name} " in printed
    assert "a published method has both less span and less work" in printed
    assert "wall ratios: the median of five runs" in printed
    page = (tmp_path / "out" / "bench.md").read_text()
    assert page.count(" to ") >= sum(m.settings(25) is not None for m in METHODS.values())  # spreads of wall ratios
    assert page.count("as run: increment") == sum(m.settings(25) is not None for m in METHODS.values())
    assert (tmp_path / "out" / "frontier-mixture.png").stat().st_size > 10_000


def test_the_command_refuses_what_it_cannot_do(tmp_path):
    parser = argparse.ArgumentParser()
    run = command(parser)
    for options, message in (
        (["--tolerances", "1e-5"], "at least"),
        (["--steps", "4"], "between"),
        (["--samples", "0"], "at least 1"),
        (["--methods", "none"], "parts of"),
        (["--device", "toaster"], "cpu or cuda, not toaster"),
    ):
        with pytest.raises(ValueError, match=message):
            run(parser.parse_args([*options, "--cache", str(tmp_path), "--out", str(tmp_path)]))
