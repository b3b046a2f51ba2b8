"""The repository keeps its promises: the README runs, versions agree, the shipped model loads, the demo works."""

import json
import re
import runpy
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from parareal_diffusers import models, picard, sample
from parareal_diffusers._commands import report
from parareal_diffusers._commands.demo import ddim_loop
from parareal_diffusers.testing import relative_error, relative_errors

import parareal
from parareal._api import cli

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "docs/reference/solvers.md",
    *(f"docs/start/{name}.md" for name in ("ode", "sample", "pipeline")),
    *(
        f"docs/how-to/{name}.md"
        for name in ("stop", "memory", "cite", "diffusion", "odes", "levels", "windows", "pools")
    ),
]
GOOD = {parareal.Outcome.CONVERGED, parareal.Outcome.EXACT}
SNIPPETS = [
    (p, i, s) for p in PAGES for i, s in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / p).read_text(), re.S))
]


@pytest.mark.parametrize(("page", "number", "code"), SNIPPETS, ids=[f"{p}-{i}" for p, i, _ in SNIPPETS])
def test_snippets_run(page, number, code, capsys):
    """A snippet that defines `solution` has an answer; where it shows an error, that error carries the solution."""
    names = {}
    exec(compile(code, f"{page}, snippet {number}", "exec"), names)
    if "solution" in names:
        expected = {parareal.Outcome.WORKER_LOST} if page.endswith("memory.md") else GOOD
        assert names["solution"].outcome in expected


def snippets(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


@pytest.mark.parametrize("page", ["docs/how-to/plan.md", "docs/how-to/pipelines.md"])
def test_snippets_of_plans_run(page, capsys):
    """The first snippet of each page needs a model that is not here, or some minutes; the others share their names."""
    names = {}
    for code in snippets(page)[1:]:
        exec(compile(code, page, "exec"), names)
    assert "The " in capsys.readouterr().out  # an outcome's sentence


def test_the_tutorial_on_solvers_runs():
    """Its snippets go on from each other; the solver takes less than 30 lines and is right."""
    names: dict = {}
    solver, check, stochastic, bare = snippets("docs/how-to/new-solver.md")
    for code in (solver, check, stochastic, bare):
        exec(compile(code, "docs/how-to/new-solver.md", "exec"), names)
        assert "report" not in names or names["report"].ok, str(names["report"])
    assert names["solution"].outcome is parareal.Outcome.CONVERGED
    assert len(re.findall(r"@dataclass.*?\n\n\n", solver, re.S)[0].strip().splitlines()) < 30


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(11))
def test_upstream_is_as_we_say(number):
    """The reproductions of docs/reference/upstream.md hold for the pinned diffusers; each asserts what it shows."""
    code = snippets("docs/reference/upstream.md")
    assert len(code) == 11
    exec(compile(code[number], f"docs/reference/upstream.md, snippet {number}", "exec"), {})


def test_the_readme_is_short():
    """At most 130 lines of 100 characters, and three examples of at most six lines."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert max(map(len, lines)) <= 100
    examples = [code.strip().splitlines() for page, _, code in SNIPPETS if page == "README.md"]
    assert len(examples) == 3
    assert max(map(len, examples)) <= 6


def test_versions_agree():
    cff = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cff is not None
    assert cff.group(1) == parareal.__version__ == version("parareal-torch")
    assert f"## {parareal.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "parareal" / "py.typed").exists()


def test_pictures_the_pages_show_exist():
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path} shows {link}"


def test_the_model_loads_and_is_small():
    net, scheduler = models.load("fashion-mnist")
    assert 1e6 < sum(p.numel() for p in net.parameters()) < 3e6
    assert next(net.parameters()).dtype is torch.float32
    weights = models.FOLDERS["fashion-mnist"] / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 6e6
    assert not scheduler.config.clip_sample
    with pytest.raises(ValueError, match="did you mean 'fashion-mnist'"):
        models.load("fashion-minst")


def test_the_trained_model_denoises():
    """Its error on a noised, smooth picture is far below that of predicting nothing, and the label matters."""
    net, scheduler = models.load("fashion-mnist")
    x = ddim_loop(
        net, scheduler, 10, torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 8])
    )
    assert x[:, :, :2, :2].mean() < -0.9  # the corner of every picture is black
    noise, t = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)), torch.tensor([300, 300])
    with torch.no_grad():
        right, wrong = (
            net(scheduler.add_noise(x, noise, t), t, class_labels=c).sample
            for c in (torch.tensor([1, 8]), torch.tensor([8, 1]))
        )
    assert (right - noise).square().mean() < 0.1
    assert (right - wrong).abs().max() > 1e-2


def test_slow_contraction_is_estimated():
    """Picard contracts slowly on a real score: both estimators see it, and no slice settles on its own word."""
    net, scheduler = models.load("fashion-mnist")
    x, labels = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.tensor([3])
    reference = ddim_loop(net, scheduler, 25, x, labels)
    options = {"num_inference_steps": 25, "model_kwargs": {"class_labels": labels}, "tolerance": 1e-2}
    simple = parareal.Tolerance(1e-2, estimator=parareal.worst_increment)
    slow = sample(net, x, scheduler, **picard(), **options, criterion=simple)
    assert relative_error(slow.final_state, reference) < 1.2 * slow.error_estimate[0] <= 1.2e-2
    for settings in (picard(), {"slices": 9}):
        fast = sample(net, x, scheduler, **settings, **options)
        assert relative_error(fast.final_state, reference) < fast.error_estimate[0] < 1e-2


def test_the_demo_writes_its_report(tmp_path, capsys):
    assert cli.main(["demo", "--steps", "16", "--slices", "4", "--seed", "3", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "40/40" in printed.err
    for word in (
        "method",
        "slices",
        "iterations",
        "span",
        "work",
        "calls",
        "wall time",
        "ratio",
        "worst relative error",
    ):
        assert word in printed.out
    for name in [f"strip-{i}" for i in range(10)]:
        (strip,) = tmp_path.glob(f"{name}-*.png")
        assert strip.stat().st_size > 10_000
    for name in ("convergence.png", "timeline.png", "report.md", "trace.json"):
        assert (tmp_path / name).stat().st_size > 1000
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    rows = [line for line in printed.out.splitlines() if line.startswith("| parareal")]
    assert float(rows[0].split("|")[-2]) < 1e-2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps must be between 1 and 1000"),
        (["--slices", "many"], "--slices must be auto or a number between 1 and --steps=196"),
        (["--slices", "300"], "--slices must be auto or a number"),
        *((["--tolerance", value], "--tolerance must be a fraction above") for value in ("-1", "1", "5", "inf", "nan")),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--out", __file__], "--out must name a folder"),
    ],
)
def test_the_demo_explains_bad_options(arguments, message, capsys):
    assert cli.main(["demo", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("tolerance", ["-1", "0", "1", "5", "inf", "nan"])
def test_the_command_plan_explains_a_bad_tolerance(tolerance, capsys, monkeypatch):
    monkeypatch.setattr(models, "load", lambda name: pytest.fail("the network was loaded first"))
    assert cli.main(["plan", "--tolerance", tolerance]) == 2
    assert "--tolerance must be a finite real number, above 0 and below 1" in capsys.readouterr().err


def test_the_command_line_helps(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["demo", "--help"])
    assert stopped.value.code == 0
    assert "--tolerance" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["dem"])
    assert "demo" in capsys.readouterr().err


def test_markdown_tables_line_up():
    rows = [{"a": "1", "long name": "x"}, {"a": "22", "long name": "y"}]
    assert len({len(line) for line in report.markdown(rows).splitlines()}) == 1


def test_the_training_script_resumes_where_it_stopped(tmp_path, monkeypatch):
    """Two runs of three steps, one stopped and resumed, end with the same weights; the export loads."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "fashion_mnist"))
    import train

    images = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    monkeypatch.setattr(train, "load", lambda split, folder: (images, torch.arange(64) % 10))
    finals = []
    for name, stops in (("straight", [3]), ("resumed", [2, 3])):
        for stop in stops:
            arguments = ["train.py", "--out", str(tmp_path / name), "--steps", "3", "--batch", "4", "--every", "1"]
            monkeypatch.setattr(sys, "argv", arguments)
            monkeypatch.setattr(
                train, "trange", lambda first, last, *a, stop=stop, **k: _Bar(range(first, min(last, stop)))
            )
            train.main()
        finals.append(torch.load(tmp_path / name / "checkpoint.pt")["net"])
    for key, value in finals[0].items():
        assert torch.equal(value, finals[1][key]), key
    net = type(models.load("fashion-mnist")[0]).from_pretrained(tmp_path / "resumed" / "model")
    assert sum(p.numel() for p in net.parameters()) > 1e6


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("script", ["ddim", "ddpm", "dpm_solver", "flow", "k_diffusion"])
def test_the_examples_of_solvers_draw_a_picture(script, tmp_path, monkeypatch, capsys):
    folder = ROOT / "examples" / "solvers"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "argv", [script, "--steps", "6", "--tolerance", "1e-3", "--out", str(tmp_path)])
    runpy.run_path(str(folder / f"{script}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    errors = [float(x) for x in re.findall(r"worst relative error (\S+);", printed)]
    assert len(errors) >= 2
    assert max(errors) < 1e-2
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_the_example_of_a_pipeline_draws_a_picture(tmp_path, monkeypatch, capsys):
    picture = tmp_path / "pipeline.png"
    arguments = ["pipeline", "--steps", "8", "--classes", "7", "--tolerance", "1e-3", "--out", str(picture)]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(ROOT / "examples" / "pipeline.py"), run_name="__main__")
    error = re.search(r"worst relative error (\S+)", capsys.readouterr().out)
    assert error is not None
    assert float(error[1]) < 1e-3
    assert picture.exists()


class _Bar(list):
    def set_postfix(self, **postfix):
        pass


def test_relative_error_is_the_rms_ratio():
    x = torch.stack([torch.full((3,), 1.1), torch.full((3,), 1.3)])
    assert relative_errors(x, torch.ones(2, 3)).tolist() == pytest.approx([0.1, 0.3], rel=1e-5)
    assert relative_error(x, torch.ones(2, 3)) == pytest.approx(0.3, rel=1e-5)
