"""The page of error messages lists what the source says."""

import re
import runpy
from pathlib import Path

import parareal

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "how-to" / "messages.md").read_text(encoding="utf-8")


def test_the_page_lists_every_message():
    script = runpy.run_path(str(ROOT / "benchmarks" / "tools" / "messages.py"))
    lines = re.search(r"<!-- messages -->\n(.*)<!-- end of messages -->", PAGE, re.S)
    assert lines is not None
    advice = "run: python benchmarks/tools/messages.py --write"
    assert lines[1].strip().splitlines() == script["render"]().splitlines(), advice


def test_the_page_explains_every_outcome():
    for outcome in parareal.Outcome:
        assert f"| `{outcome.name}` | {outcome.value} |" in PAGE
