"""Generated tables in the documentation. Each lies between two marks, `<!-- name -->` and `<!-- end of name -->`."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def put(page: Path, name: str, text: str) -> None:
    """Replace the table between two marks of a page.

    Args:
        page: file of the documentation.
        name: name in the marks.
        text: the new table.

    Raises:
        ValueError: if the page has no such marks.
    """
    whole = page.read_text()
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.S)
    if not pattern.search(whole):
        raise ValueError(f"{page} has no marks {marks[0]} .. {marks[1]}")
    # a function as replacement, because backslashes in a string would be escapes
    page.write_text(pattern.sub(lambda _: f"{marks[0]}\n\n{text}\n\n{marks[1]}", whole))
