"""The benchmark of quality: the Frechet distance, cached samples, and runs that continue."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
NAMES = ("data", "classifier", "quality")


@pytest.fixture
def quality(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "diffusion"))
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    import quality

    def load(split, folder):
        generator = torch.Generator().manual_seed(len(split))
        return torch.rand(300, 1, 28, 28, generator=generator) * 2 - 1, torch.arange(300) % 10

    monkeypatch.setattr(quality.data, "load", load)
    monkeypatch.setattr(quality.judge, "load", load)
    monkeypatch.setattr(quality, "CHUNK", 4)
    yield quality
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def test_the_distance_is_the_frechet_distance(quality):
    """The distance of two clouds that differ by a shift is the square of the shift."""
    cloud = torch.randn(400, 128, generator=torch.Generator().manual_seed(0))
    distance = quality.Distance(cloud)
    assert distance(cloud) == pytest.approx(0, abs=1e-3)
    assert distance(cloud + 0.5) == pytest.approx(128 * 0.25, rel=1e-3)
    assert distance(cloud) == pytest.approx(0, abs=1e-3)  # earlier samples are discarded


def test_a_run_is_resumed_and_its_samples_are_judged(quality, tmp_path, monkeypatch, capsys):
    common = ["quality.py", "--cache", str(tmp_path), "--samples", "8", "--steps", "4", "--epochs", "1"]
    common += ["--solvers", "DDIM", "DDPM", "--resamples", "4"]
    monkeypatch.setattr(sys, "argv", [*common, "--minutes", "0"])
    quality.main()
    assert "8 of 8 chunks are missing" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", common)
    quality.main()
    printed = capsys.readouterr().out
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in printed.splitlines() if line.startswith("| D")]
    assert [row[:3] for row in rows] == [[s, t, "8"] for s in ("DDIM", "DDPM") for t in ("sequential", "parallel")]
    for plain, parallel in (rows[:2], rows[2:]):
        first, second = (float(row[3].split("±")[0]) for row in (plain, parallel))
        assert second == pytest.approx(first, rel=0.05)
        assert float(parallel[-1]) < 1e-2
    times = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("d*.pt")}
    (tmp_path / "ddim-parallel-001.pt").unlink()
    quality.main()  # draws the missing chunk only
    again = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("d*.pt")}
    assert [name for name in times if times[name] != again[name]] == ["ddim-parallel-001.pt"]


def test_the_number_of_samples_must_be_a_multiple_of_a_chunk(quality, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quality.py", "--samples", "15"])
    with pytest.raises(SystemExit):
        quality.main()
    assert "--samples must be a multiple of 4" in capsys.readouterr().err
