"""The diffusion policy of the maze: its data, the shipped weights, and plans in parallel in time."""

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
NAMES = ("mazes", "accept", "train", "policy")


@pytest.fixture
def example(monkeypatch):
    """Let modules of the example be imported, and forget them afterwards: others have scripts of the same names."""
    for folder in ("benchmarks/diffusion", "examples/maze"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    threads = torch.get_num_threads()
    yield monkeypatch
    torch.set_num_threads(threads)
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def task(mazes, count, seed=3):
    """Return the shipped network, its scheduler, noise and ends that were kept from training."""
    net, scheduler = models.load("maze")
    noise = torch.randn(count, mazes.POINTS, 2, generator=torch.Generator().manual_seed(seed))
    return net, scheduler, noise, mazes.build_plans(count, seed, training=False)[1]


def test_experts_walk_past_no_wall_and_ends_are_kept_from_training(example):
    import mazes

    seen, ends = mazes.build_plans(200, 0)
    unseen, others = mazes.build_plans(200, 0, training=False)
    assert seen.shape == (200, mazes.POINTS, 2)
    assert not mazes.touches_wall(torch.cat([seen, unseen]).double().numpy()).any()
    assert torch.equal(ends[:, :2], seen[:, 0])
    assert not {tuple(e) for e in ends.tolist()} & {tuple(e) for e in others.tolist()}
    through = np.linspace([-0.65, -0.65], [0.65, -0.65], mazes.POINTS)[None]  # straight through the walls between
    assert mazes.touches_wall(through).all()
    assert mazes.touches_wall(through - 1).all()  # and out of the maze


def test_the_model_is_small_and_finds_its_way(example):
    import accept
    import mazes

    net, scheduler, noise, ends = task(mazes, 64)
    assert 1e6 < sum(p.numel() for p in net.parameters()) < 2e6
    assert next(net.parameters()).dtype is torch.float32
    assert (models.FOLDERS["maze"] / "diffusion_pytorch_model.safetensors").stat().st_size < 4e6
    planned = scheduler_loop(lambda x, t: net(x, t, ends=ends), noise, scheduler, 25)
    assert accept.judge(planned, ends).mean() > 0.8
    assert accept.judge(planned, ends.roll(1, 0)).mean() < 0.1  # the ends matter


@pytest.mark.parametrize("settings", [{"slices": 12}, {"levels": (10, 3)}, {"slices": 14, "coarse": "ddim"}])
def test_plans_in_parallel_in_time_are_the_loops(example, settings):
    import mazes

    net, scheduler, noise, ends = task(mazes, 8)
    expected = scheduler_loop(lambda x, t: net(x, t, ends=ends), noise, scheduler, 100)
    given = {"num_inference_steps": 100, "model_kwargs": {"ends": ends}, **settings}
    one = sample(net, noise, scheduler, criterion=parareal.Iterations(1), **given)
    assert relative_error(one.final_state, expected) < 1e-2
    assert one.stats.span < 30
    found = sample(net, noise, scheduler, tolerance=1e-2, **given)
    errors = relative_errors(found.final_state, expected)
    assert errors.mean() < 1e-2
    assert errors.max() < 3e-2  # the sketch of one is taken for better than it is
    found = sample(net, noise[:2], scheduler, tolerance=0.0, **{**given, "model_kwargs": {"ends": ends[:2]}})
    assert relative_error(found.final_state, expected[:2]) < 1e-5


def test_the_model_is_trained_and_judged_by_its_scripts(example, tmp_path, capsys):
    import accept
    import train

    arguments = ["train.py", "--out", str(tmp_path), "--steps", "4", "--batch", "16", "--plans", "50"]
    finals = []
    for _ in range(2):
        example.setattr(sys, "argv", arguments)
        train.main()
        finals.append(models.model_in(tmp_path)[0].state_dict())
    assert all(torch.equal(x, finals[1][name]) for name, x in finals[0].items())
    picture = tmp_path / "plans.png"
    example.setattr(sys, "argv", ["accept.py", "--plans", "30", "--steps", "10", "--picture", str(picture)])
    accept.main()
    share = re.search(r"(\S+)% of 30 plans", capsys.readouterr().out)
    assert share is not None
    assert float(share[1]) > 60
    assert picture.stat().st_size > 10_000


def test_the_benchmark_of_the_policy_prints_its_table(example, capsys):
    import policy

    example.setitem(policy.SETTINGS, 100, policy.SETTINGS[100][:4:3])
    example.setattr(sys, "argv", ["policy.py", "--steps", "100", "--runs", "2", "--threads", "1"])
    policy.main()
    shown = capsys.readouterr().out
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in shown.splitlines() if line.startswith("| 100")]
    assert len(lines) == 1 + 2
    assert float(lines[0][-1]) < 2e-2
    assert all(float(line[7]) < 4 for line in lines)  # work over N
