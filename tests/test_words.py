"""The rules of docs/style.md that a search can check, in code, tests, messages and docs."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ["parareal", "adapters", "benchmarks", "examples", "tests", "docs"]
FILES = [
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))),
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md"))),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
# These two quote what they ban.
FILES = [path for path in FILES if path.name not in ("style.md", "test_words.py")]
PYTHON = [path for path in FILES if path.suffix == ".py"]

UNITS = (
    "sample|slice|row|step|tick|iteration|process|call|class|network|family|problem|method|scheduler|experiment|solver|"
    "node|boundary|device|worker|file|page|line|folder|column|run|pass|batch|level|image|picture|stage|group|thread|"
    "evaluation|jump|second|state|kB|MB|time"
)
VERBS = {"run", "call", "pass", "process", "state", "node", "step", "time", "file", "page", "line", "device"}
COUNTED = "|".join(unit for unit in UNITS.split("|") if unit not in VERBS)
PROSE = {
    "`for` as because": r"[,;:(] for (it|they|that|this|these|those|there|nothing|what|then|only|we|he|otherwise|"
    r"in|now|[a-z]+ (is|are|was|has|have|may|can|must)|the \w+( \w+)? (is|are|was|has|have|may|can|must))\b",
    "distributive `a`: say per": rf"\b(one|once|twice|each|(?:{COUNTED})s?) an? (?:{UNITS})\b(?! of)",
    "archaic connective": r"\b(in vain|anew|but for|hence|nor|lest|beside|whence|thereof|whereof|wherein|heed\w*)\b",
    "so many, as many as: name the quantity": r"\b(so many|as many as|as many \w+ as)\b",
    "relative pronoun without a noun": r"\b(of which the|to where|(by|of|from|with) what)\b",
    "unsupported, or would give wrong results": r"\bcannot be right\b",
    "reject": r"\bwill not do\b",
    "coarse prediction": r"\bsketch(es|ed)?\b",
    "plain function": r"\bblack.?box(es)?\b",
    "approximate": r"\brough(ly|ness)?\b",
    "exact, complete": r"\bin full\b",
    "sequentially": r"\bstep.by.step\b",
    "coarse memory": r"\btrails?\b",
    "embedded difference": r"\b(gaps?|drifts?)\b",
    "step interval": r"\blegs?\b",
    "recorded noise": r"\btapes?\b",
    "estimated error, cost": r"\b(priced?|prices|pricing|wrong by)\b",
    "predict": r"\bfore(tells?|told)\b",
    "store, discard": r"\b(remember(s|ed|ing)?|forg[eo]t\w*)\b",
    "name who acts": r"\b(nobody|somebody|astray|midst)\b",
    "since, as": r"\b(wherefore|whereby|thereby|upon)\b",
    "unchanged, default": r"\bas it comes\b",
}
CLAUSE = re.compile(r"(What|Who|Whom|Whose|Which|How|Where|When|Why)\b", re.IGNORECASE)
PAGE_CLAUSE = re.compile(r"(What|Who|Whom|Whose|Which)\b(?!.*\?)")  # a page may have "When it does not pay"
PARTICIPLES = {
    *("made", "found", "given", "kept", "held", "asked", "told", "taken", "drawn", "known", "got", "tried", "begun"),
    *("began", "seen", "built", "chosen", "shown", "thrown", "written", "gone", "brought", "sent", "spent", "met"),
}
# Public names of the contract, and names of quantities.
ADJECTIVES = {"vectorized", "denoised", "embed", "propagated_error", "expected_iterations"}
# Old public names, which warn for one release.
OLD_NAMES = {"began", "measured"}


def paragraphs(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the prose of a file by paragraph, on one line each, with the number of its first line.

    That is the text outside code in Markdown, and in Python the strings and the blocks of comments. Text in backticks
    becomes "code", because it quotes names.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = re.sub(r"```.*?```|<!--.*?-->", lambda code: "\n" * code.group().count("\n"), text, flags=re.S)
        blocks = [(1, re.sub(r"\]\([^)]*\)", "]", text))]
    else:
        blocks = list(prose_of_code(text))
    for first, block in blocks:
        block = re.sub(r"`[^`]*`", lambda code: " code " + "\n" * code.group().count("\n"), block)
        for paragraph in re.finditer(r"(?:[^\n]*\S[^\n]*(?:\n|$))+", block):
            yield first + block[: paragraph.start()].count("\n"), " ".join(paragraph.group().split())


def prose_of_code(text: str) -> Iterator[tuple[int, str]]:
    """Yield the strings and the blocks of comments of Python code, with the numbers of their first lines."""
    kinds = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    comment: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if comment and token.start[0] != comment[-1][0] + 1:
                yield comment[0][0], "\n".join(line for _, line in comment)
                comment = []
            comment.append((token.start[0], token.string.lstrip("# ")))
        elif token.type in kinds and " " in token.string:  # a string without a space is a name
            yield token.start[0], token.string
    if comment:
        yield comment[0][0], "\n".join(line for _, line in comment)


def names(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Yield the names that a file defines: line, name, and whether it is a function that is no property."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, not any("property" in ast.unparse(d) for d in node.decorator_list)
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, False
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, False
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr, False


def titles(path: Path) -> Iterator[tuple[int, str]]:
    """Yield headings of Markdown, and the docstrings of modules, classes, functions and fields, by line."""
    if path.suffix == ".md":
        for number, paragraph in paragraphs(path):
            if paragraph.startswith("#"):
                yield number, paragraph.strip("# ")
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and (docstring := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), docstring.splitlines()[0]
        body = node.body if isinstance(node, ast.ClassDef | ast.Module) else []
        for field in body[1:]:
            if isinstance(field, ast.Expr) and isinstance(field.value, ast.Constant):
                yield field.lineno, str(field.value.value)


def by_folder(paths: list[Path]) -> dict[str, list[Path]]:
    """Return files by the folder they are in."""
    folders = defaultdict(list)
    for path in paths:
        folders[str(path.parent.relative_to(ROOT))].append(path)
    return folders


ROOMS = by_folder(FILES)
PYTHON_ROOMS = by_folder(PYTHON)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_prose_uses_the_terms_of_the_style_guide(room: str) -> None:
    complaints = []
    for path in ROOMS[room]:
        for number, paragraph in paragraphs(path):
            for rule, pattern in PROSE.items():
                if hit := re.search(pattern, paragraph, re.IGNORECASE):
                    place = f"{path.relative_to(ROOT)}:{number}"
                    context = paragraph[max(0, hit.start() - 50) : hit.end() + 50]
                    complaints.append(f"{place}: {rule}: {hit.group()!r} in {context!r}")
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_titles_are_noun_phrases(room: str) -> None:
    complaints = [
        f"{path.relative_to(ROOT)}:{number}: {title[:110]!r}"
        for path in ROOMS[room]
        for number, title in titles(path)
        if (PAGE_CLAUSE if path.suffix == ".md" else CLAUSE).match(title)
    ]
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize("room", sorted(PYTHON_ROOMS))
def test_names_are_verbs_and_nouns(room: str) -> None:
    complaints = []
    for path in PYTHON_ROOMS[room]:
        for number, name, is_function in names(ast.parse(path.read_text(encoding="utf-8"))):
            first = name.strip("_").split("_")[0]
            participle = name.strip("_") in PARTICIPLES - OLD_NAMES
            if is_function and not name.startswith("test_"):
                participle |= first in PARTICIPLES or (first.endswith("ed") and name not in ADJECTIVES)
            if participle:
                complaints.append(f"{path.relative_to(ROOT)}:{number}: {name}")
    assert not complaints, "\n" + "\n".join(sorted(set(complaints)))


def test_a_class_name_means_one_thing() -> None:
    places = defaultdict(list)
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not {name: where for name, where in places.items() if len(where) > 1}


@pytest.mark.parametrize(
    "text",
    [
        "Solved in one slice, for it is not faster.",
        "Two samples a row, one a step.",
        "judged by what it changed",
        "All of it is in\nvain.",
        "the black box answers roughly",
    ],
)
def test_dialect_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(text)
    (tmp_path / "code.py").write_text(f'"""{text}"""\n')
    for path in tmp_path.iterdir():
        prose = " ".join(paragraph for _, paragraph in paragraphs(path))
        assert any(re.search(pattern, prose, re.IGNORECASE) for pattern in PROSE.values()), path.name
