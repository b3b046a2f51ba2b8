"""Generated tables in the documentation, each between its two marks: `<!-- name -->` and `<!-- end of name -->`."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def put(page: Path, name: str, text: str) -> None:
    """Put a table into a page, between its two marks."""
    whole = page.read_text()
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.S)
    if not pattern.search(whole):
        raise ValueError(f"{page} has no marks {marks[0]} .. {marks[1]}")
    page.write_text(pattern.sub(lambda _: f"{marks[0]}\n\n{text}\n\n{marks[1]}", whole))
