"""The table "Where do I ..." of docs/explained/architecture.md names files that exist and symbols that they define."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "explained" / "architecture.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| `([\w/]+\.py)` \| `(\w+)` \|$", PAGE, re.M)
SUBJECTS = ("algorithm", "solver", "criterion", "executor", "correction", "adapter", "pipeline class", "error message")


def list_names(path: Path) -> set[str]:
    """Return the names that a file defines or re-exports at its top."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names if alias.asname}
    return names


@pytest.mark.parametrize(("what", "file", "symbol"), ROWS, ids=[what for what, _, _ in ROWS])
def test_the_place_exists(what, file, symbol):
    assert (ROOT / file).exists(), f"{what}: {file} does not exist"
    assert symbol in list_names(ROOT / file), f"{what}: {file} defines no {symbol}"


def test_every_row_of_the_table_is_read():
    table = PAGE.split("## Where do I ...")[1].split("## ")[0]
    assert len(ROWS) == table.count("\n| ") - 1
    for subject in SUBJECTS:
        assert any(subject in what for what, _, _ in ROWS), f"no row says where to change: {subject}"


def test_the_tree_shows_every_room():
    for path in (ROOT / "parareal").iterdir():
        if path.name not in ("__pycache__", "py.typed"):
            assert path.name in PAGE, f"docs/explained/architecture.md does not show {path.name}"


def test_importing_the_engine_stays_light():
    """It imports none of the heavy packages that plots and adapters need."""
    heavy = ("matplotlib", "diffusers", "transformers", "torchdiffeq", "scipy", "torch._dynamo", "sympy.core")
    code = f"import parareal, sys; print([name for name in {heavy} if name in sys.modules])"
    before = f"import torch, sys; print([name for name in {heavy} if name in sys.modules])"
    outputs = [
        subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True, cwd=ROOT).stdout
        for c in (code, before)
    ]
    assert outputs[0] == outputs[1]


def texts() -> list[Path]:
    """Return the pages and the code in which paths of the repository are named."""
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("examples/*/*.md"),
    ]
    code = [
        p
        for folder in ("parareal", "adapters", "benchmarks", "examples", "tests")
        for p in (ROOT / folder).rglob("*.py")
    ]
    return [*pages, *code, ROOT / "Makefile"]


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_that_are_named_exist(path):
    """Files of ours that a page, a comment or a message names are where it says."""
    places = (ROOT, path.parent, ROOT / "adapters" / "parareal_diffusers", ROOT / "parareal")
    named = re.findall(r"(?<![\w./*])((?:\w[\w-]*/)+[\w-]+\.(?:py|md|svg))\b", path.read_text(encoding="utf-8"))
    for name in named:
        if name.split("/")[0] in ("parareal", "adapters", "benchmarks", "docs", "examples", "tests", "_iteration"):
            assert any((place / name).exists() for place in places), f"{name} does not exist"
