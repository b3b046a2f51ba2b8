"""Every figure in README and docs stands in a section that names the script, test or command that prints it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A figure is a measured quantity: a number with a unit of time, size, ratio or share; a range; a table cell that begins
# with a decimal number; or an image.
FIGURE = re.compile(
    r"\d\s?(%|[mµu]?s\b|x\b(?! \d)|seconds?\b|minutes?\b|hours?\b|[kMG]i?B\b|times (?:as|the|its|more|faster|slower)\b)"
    r"|\d\.\d+ \(\d[\d.]* to|\|\s*[*+-]*\d+\.\d+|!\[[^\]]*\]\([^)]*\)|<img"
)
# Times and speed-ups depend on the machine, counts and errors do not.
TIMED = re.compile(r"\d\s?(?:[mµu]?s|seconds?|minutes?) ?\||\d\.\d+ \(\d[\d.]* to")
MACHINE = re.compile(r"EPYC|Xeon|H200")
RESULT_TABLE = re.compile(r"^\|.*\b(speed-up|ratio|worst error|wall time)\b.*\|\n\|[ :|-]+\|\n\|.*\d\.\d", re.M)
SOURCE = re.compile(
    r"(?:benchmarks|examples|tests)/[\w./-]+\.(?:py|ipynb)"
    r"|\bmake (?:demo|test)\b|\bparareal (?:bench|plan)\b|\bpython -X importtime\b"
)


def sections(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield title, own text and the text of the enclosing section; of code, only the scripts that it names."""
    text = re.sub(r"```.*?```", lambda code: " ".join(SOURCE.findall(code.group())), text, flags=re.S)
    enclosing: list[tuple[int, str]] = []
    for part in re.split(r"^(?=#+ )", text, flags=re.M):
        heading = re.match(r"(#+) (.*)", part)
        level = len(heading[1]) if heading else 0
        enclosing = [(depth, body) for depth, body in enclosing if depth < level]
        yield heading[2] if heading else "", part, enclosing[-1][1] if enclosing else ""
        enclosing.append((level, part))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_name_their_source(page):
    complaints = []
    for title, text, enclosing in sections(page.read_text(encoding="utf-8")):
        figure = FIGURE.search(text)
        if figure and not SOURCE.search(text + enclosing):
            line = next(line for line in text.splitlines() if FIGURE.search(line))
            complaints.append(f"{title!r} shows {figure.group()!r} but names no script: {line.strip()[:100]}")
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_times_name_their_machine(page):
    for title, text, enclosing in sections(page.read_text(encoding="utf-8")):
        assert not TIMED.search(text) or MACHINE.search(text + enclosing), f"{title!r} has times but names no machine"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_of_results_stand_under_results(page):
    if page.parent.name != "results" and page not in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        assert not RESULT_TABLE.search(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_scripts_exist(page):
    for name in SOURCE.findall(page.read_text(encoding="utf-8")):
        assert name.startswith(("make", "parareal", "python")) or (ROOT / name).exists(), name


@pytest.mark.parametrize("text", ["It is 3.2 x faster", "takes 12 ms", "| 0.5 | 2 |", "![a](b.png)"])
def test_a_figure_without_a_script_is_found(text):
    ((_, own, enclosing),) = [section for section in sections(f"# Title\n\n{text}.\n") if section[0]]
    assert FIGURE.search(own)
    assert not SOURCE.search(own + enclosing)


def test_sizes_and_counts_are_no_figures():
    assert not FIGURE.search("images of 28 x 28 pixels in 50 steps")
