"""The reproduction of the paper on SRDS, with few steps: every table, on the shipped model and on folders."""

import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]


@pytest.fixture
def reproduce(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "pipelines"))
    threads = torch.get_num_threads()
    import reproduce_srds

    yield reproduce_srds
    torch.set_num_threads(threads)


def rows_of(text, title):
    """Return the rows of a table as dictionaries."""
    section = text.split(f"**{title}")[1].split("\n\n")[1]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_every_table_is_made_on_the_shipped_model(reproduce, capsys):
    assert reproduce.main(["--quick"]) == 0
    text = capsys.readouterr().out
    for title, peer in (("Table 4", "ParaDiGMS"), ("Appendix: comparison with ParaTAA", "ParaTAA")):
        peer_rows = [row for row in rows_of(text, title) if row["method"].startswith(peer)]
        assert peer_rows
        for row in peer_rows:
            assert "error, No module named" in row["method"] or float(row["worst error"]) < 1
    for title, _ in reproduce.TABLES.values():
        assert rows_of(text, title)
    first = rows_of(text, "Table 1")
    plain, vanilla, pipelined = first[:3]
    steps = int(plain["N"])
    assert (int(plain["total evaluations"]), int(plain["effective serial evaluations"])) == (steps, steps)
    assert int(pipelined["effective serial evaluations"]) <= steps < int(vanilla["effective serial evaluations"])
    assert pipelined["total evaluations"] == vanilla["total evaluations"]
    assert max(float(row["worst error"]) for row in first[:3]) < 1e-4
    assert "--real" in plain["FID"]
    assert {row["paper's FID"] for row in first[3:]} == {"12.8 [A]", "10.0 [A]", "9.0 [A]", "7.6 [A]"}
    assert "takes no prompts" in rows_of(text, "Table 2")[0]["CLIP score"]
    for row in rows_of(text, "Appendix: speed-up by number of devices"):
        steps = int(row["N"])  # batch times are measured, so the speed-up depends on the machine
        assert all(0 < float(row[f"{n} device{'s' * (n > 1)}"]) <= steps for n in reproduce.DEVICES)


def test_a_folder_with_a_stable_diffusion_is_sampled_with_guidance(reproduce, tmp_path, capsys):
    import tiny

    tiny.sd().save_pretrained(tmp_path)
    assert reproduce.main(["--model", str(tmp_path), "--quick", "--tables", "2", "--samples", "2"]) == 0
    rows = rows_of(capsys.readouterr().out, "Table 2")
    assert max(float(row["worst error"]) for row in rows) < 1e-2
    assert all(re.search("weights are not available|needs torchmetrics", row["CLIP score"]) for row in rows)


def test_a_folder_with_a_pixel_model_is_sampled(reproduce, tmp_path, capsys):
    import tiny

    tiny.pixels().save_pretrained(tmp_path)
    assert reproduce.main(["--model", str(tmp_path), "--quick", "--tables", "1"]) == 0
    assert float(rows_of(capsys.readouterr().out, "Table 1")[2]["worst error"]) < 1e-2


def test_missing_models_and_folders_are_reported(reproduce, capsys, tmp_path, monkeypatch):
    import tiny  # sets HF_HUB_OFFLINE  # noqa: F401

    assert reproduce.main(["--model", str(tmp_path / "nothing"), "--quick"]) == 2
    assert "is not available" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["reproduce_srds.py"])
    with pytest.raises(SystemExit):
        reproduce.main(["--real", str(tmp_path / "none")])
    assert "--real must be a folder" in capsys.readouterr().err
