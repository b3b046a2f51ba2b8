"""The list of all error messages, refusals and warnings for docs/how-to/messages.md.

    python benchmarks/tools/messages.py --write     # updates the page; without --write the list is printed

Messages are read from the source: every string of at least four words that is raised, warned, noted, or returned as the
reason of a refusal. A part that is filled in at run time is shown as "…". `tests/test_messages.py` holds the page
against the source.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.tools.pages import DOCS, put

ROOT = Path(__file__).parents[2]
PAGE = DOCS / "how-to" / "messages.md"
# Headings of the page, with the folders that each covers. A file belongs to the first folder that contains it.
SECTIONS = {
    "Commands": ("parareal/_api/cli.py", "adapters/parareal_diffusers/_commands"),
    "The engine: `solve`, `refine`, `sequential`, `check`, `plan`, `simulate`": ("parareal",),
    "`odeint`": ("adapters/parareal_torchdiffeq",),
    "Pipelines: `parallelize`": ("adapters/parareal_diffusers/_pipelines",),
    "Sampling: `sample`, `plan`, solvers and schedulers": ("adapters/parareal_diffusers",),
}
SILENT = (  # strings of these files are labels of tables and figures
    "parareal/_results/plot.py",
    "parareal/_results/export.py",
    "adapters/parareal_diffusers/_commands/report.py",
    "adapters/parareal_diffusers/bench",
)
FEWEST_WORDS = 4
FEWEST_WORDS_OF_A_REASON = 6  # of a string that is returned or assigned: shorter ones are labels
CALLS = re.compile(r"(Error|Warning|Failure|NonFinite|Refusal|warn|add_note|append|whole_number|real_number|one_of)$")


def template(node: ast.AST) -> str | None:
    """Return the text of a string expression, with "…" for what is filled in; None for other expressions."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) or "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        return None if left is None and right is None else (left or "…") + (right or "…")
    return None


def is_message(node: ast.AST, text: str, parents: dict[ast.AST, ast.AST]) -> bool:
    """Return whether a string expression is shown to a user as an error, a warning, a note or a reason."""
    parent = parents[node]
    if isinstance(parent, ast.JoinedStr | ast.FormattedValue | ast.BinOp):
        return False  # a part of a longer message
    while not isinstance(parent, ast.stmt):
        if isinstance(parent, ast.Call):
            return bool(CALLS.search(ast.unparse(parent.func)))
        if isinstance(parent, ast.keyword | ast.arg):
            return False
        parent = parents[parent]
    if isinstance(parent, ast.Return | ast.Assign | ast.AnnAssign):
        return len(text.split()) >= FEWEST_WORDS_OF_A_REASON
    return isinstance(parent, ast.Raise)


def messages(path: Path) -> Iterator[str]:
    """Yield the messages of a source file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        text = template(node)
        if text is None or len(text.split()) < FEWEST_WORDS or text.startswith((",", ":")):
            continue
        if is_message(node, text, parents):
            yield " ".join(text.split())


def section(path: Path) -> str:
    """Return the heading under which the messages of a file stand."""
    name = str(path.relative_to(ROOT))
    return next(title for title, folders in SECTIONS.items() if name.startswith(folders))


def render() -> str:
    """Return the list as Markdown: a heading per section, messages in alphabetical order."""
    by_section: dict[str, set[str]] = {title: set() for title in SECTIONS}
    for folder in ("parareal", "adapters"):
        for path in (ROOT / folder).rglob("*.py"):
            if not str(path.relative_to(ROOT)).startswith(SILENT):
                by_section[section(path)] |= set(messages(path))
    lines = []
    for title, texts in by_section.items():
        lines += [f"### {title}", ""]
        lines += [f"- {escape(text)}" for text in sorted(texts, key=lambda text: text.lstrip("… ,`'").lower())]
        lines += [""]
    return "\n".join(lines).rstrip()


def escape(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return re.sub(r"([\\*_\[\]<>|#$])", r"\\\1", text)


def main() -> None:
    """Print the list, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the list into docs/how-to/messages.md")
    if parser.parse_args().write:
        put(PAGE, "messages", render())
    else:
        print(render())


if __name__ == "__main__":
    main()
