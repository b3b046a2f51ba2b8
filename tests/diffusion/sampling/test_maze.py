"""The diffusion policy of the maze: its data, the shipped weights, and its plans in parallel in time."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from parareal_diffusers import models, sample
from parareal_diffusers.testing import relative_error, relative_errors, scheduler_loop

import parareal

ROOT = Path(__file__).parents[3]
MODULES = ("mazes", "accept", "train", "policy")


@pytest.fixture
def example(monkeypatch):
    """Make modules of the example importable, and unload them afterwards: other examples have the same names."""
    for folder in ("benchmarks/diffusion", "examples/maze"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    before = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    threads = torch.get_num_threads()
    yield monkeypatch
    torch.set_num_threads(threads)
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def make_task(mazes, count, seed=3):
    """Return the shipped network, its scheduler, noise, and ends that were excluded from training."""
    network, scheduler = models.load("maze")
    noise = torch.randn(count, mazes.POINTS, 2, generator=torch.Generator().manual_seed(seed))
    return network, scheduler, noise, mazes.build_plans(count, seed, training=False)[1]


def test_experts_cross_no_wall_and_some_ends_are_excluded_from_training(example):
    import mazes

    plans, ends = mazes.build_plans(200, 0)
    test_plans, test_ends = mazes.build_plans(200, 0, training=False)
    assert plans.shape == (200, mazes.POINTS, 2)
    assert not mazes.touches_wall(torch.cat([plans, test_plans]).double().numpy()).any()
    assert torch.equal(ends[:, :2], plans[:, 0])
    assert not {tuple(e) for e in ends.tolist()} & {tuple(e) for e in test_ends.tolist()}
    straight = np.linspace([-0.65, -0.65], [0.65, -0.65], mazes.POINTS)[None]  # crosses the walls between
    assert mazes.touches_wall(straight).all()
    assert mazes.touches_wall(straight - 1).all()  # lies outside the maze


def test_the_model_is_small_and_reaches_the_goal(example):
    import accept
    import mazes

    network, scheduler, noise, ends = make_task(mazes, 64)
    assert 1e6 < sum(p.numel() for p in network.parameters()) < 2e6
    assert next(network.parameters()).dtype is torch.float32
    assert (models.FOLDERS["maze"] / "diffusion_pytorch_model.safetensors").stat().st_size < 4e6
    plans = scheduler_loop(lambda x, t: network(x, t, ends=ends), noise, scheduler, 25)
    assert accept.judge(plans, ends).mean() > 0.8
    assert accept.judge(plans, ends.roll(1, 0)).mean() < 0.1  # plans depend on their ends


@pytest.mark.parametrize("settings", [{"slices": 12}, {"levels": (10, 3)}, {"slices": 14, "coarse": "ddim"}])
def test_plans_in_parallel_in_time_equal_those_of_the_loop(example, settings):
    import mazes

    network, scheduler, noise, ends = make_task(mazes, 8)
    expected = scheduler_loop(lambda x, t: network(x, t, ends=ends), noise, scheduler, 100)
    options = {"num_inference_steps": 100, "model_kwargs": {"ends": ends}, **settings}
    solution = sample(network, noise, scheduler, criterion=parareal.Iterations(1), **options)
    assert relative_error(solution.final_state, expected) < 1e-2
    assert solution.stats.span < 30
    solution = sample(network, noise, scheduler, tolerance=1e-2, **options)
    errors = relative_errors(solution.final_state, expected)
    assert errors.mean() < 1e-2
    assert errors.max() < 3e-2  # the error of one coarse prediction is underestimated
    options["model_kwargs"] = {"ends": ends[:2]}
    solution = sample(network, noise[:2], scheduler, tolerance=0.0, **options)
    assert relative_error(solution.final_state, expected[:2]) < 1e-5


def test_the_scripts_train_and_evaluate_the_model(example, tmp_path, capsys):
    import accept
    import train

    arguments = ["train.py", "--out", str(tmp_path), "--steps", "4", "--batch", "16", "--plans", "50"]
    state_dicts = []
    for _ in range(2):
        example.setattr(sys, "argv", arguments)
        train.main()
        state_dicts.append(models.load_folder(tmp_path)[0].state_dict())
    assert all(torch.equal(x, state_dicts[1][name]) for name, x in state_dicts[0].items())  # reproducible
    image = tmp_path / "plans.png"
    example.setattr(sys, "argv", ["accept.py", "--plans", "30", "--steps", "10", "--picture", str(image)])
    accept.main()
    share = re.search(r"(\S+)% of 30 plans", capsys.readouterr().out)
    assert share is not None
    assert float(share[1]) > 60
    assert image.stat().st_size > 10_000


def test_the_benchmark_of_the_policy_prints_its_table(example, capsys):
    import policy

    example.setitem(policy.SETTINGS, 100, policy.SETTINGS[100][:4:3])
    example.setattr(sys, "argv", ["policy.py", "--steps", "100", "--runs", "2", "--threads", "1"])
    policy.main()
    output = capsys.readouterr().out
    rows = [line.strip("|").split("|") for line in output.splitlines() if line.startswith("| 100")]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert len(rows) == 1 + 2
    assert float(rows[0][-1]) < 2e-2
    assert all(float(row[7]) < 4 for row in rows)  # work over N
