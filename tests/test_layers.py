"""Layers: the rooms of each package, and which may import which (docs/explained/architecture.md)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "parareal": ROOT / "parareal",
    "parareal_torchdiffeq": ROOT / "adapters" / "parareal_torchdiffeq",
    "parareal_diffusers": ROOT / "adapters" / "parareal_diffusers",
}

# Each room may import the rooms to its right and no others of its package. Only __init__ of the package imports all.
ENGINE = {
    "driver": "_planning _run _execution _results _iteration _problem _corrections _criteria _state _checks",
    "_api": "_planning _run _execution _results _iteration _problem _corrections _criteria _state _checks",
    "_planning": "_run _execution _results _iteration _problem _corrections _criteria _state _checks",
    "_run": "_execution _results _iteration _problem _corrections _criteria _state _checks",
    "_execution": "_iteration _problem _corrections _criteria _state _checks",
    "_results": "_iteration _state _checks",
    "_iteration": "_corrections _criteria _state",
    "_problem": "_corrections _criteria _state _checks",
    "_corrections": "_state",
    "_criteria": "_state _checks",
    "_state": "",
    "_checks": "",
}
DIFFUSERS = {
    "bench": "_commands _pipelines testing models _sampling _schedulers _solvers _noise _grid",
    "_commands": "_pipelines testing models _sampling _schedulers _solvers _noise _grid",
    "_pipelines": "_sampling _schedulers _solvers _noise _grid",
    "testing": "models _sampling _schedulers _solvers _noise _grid",
    "_sampling": "_schedulers _solvers _noise _grid",
    "_schedulers": "_solvers _noise _grid",
    "_solvers": "_noise _grid",
    "_noise": "_grid",
    "_grid": "",
    "models": "",
}
# Folders within a room, the upper ones first.
FLOORS = {
    "parareal_diffusers._pipelines": ["", "stand_ins"],
    "parareal_diffusers._solvers": ["ancestral dpm multistep sigma", ""],
    "parareal_diffusers.bench": ["", "harness", "baselines", "cases"],
}
MOST_ENTRIES = 14


def modules(package: str) -> dict[str, Path]:
    """Return the files of a package by their dotted names; a folder's name stands for its __init__."""
    root, files = PACKAGES[package], {}
    for path in sorted(root.rglob("*.py")):
        parts = (package, *path.relative_to(root).with_suffix("").parts)
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imports(path: Path) -> Iterator[str]:
    """Yield everything that a file imports, also within functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(package: str) -> dict[str, set[str]]:
    """Return the imports of each file of a package, without the package itself, which re-exports."""
    files = modules(package)
    return {
        name: {n for n in imports(path) if n in files and n not in (name, package)}
        for name, path in files.items()
        if name != package
    }


def find_circles(arrows: dict[str, set[str]]) -> set[str]:
    """Return the nodes that can be reached from themselves."""

    def follow(start: str) -> set[str]:
        visited, pending = set(), list(arrows.get(start, ()))
        while pending:
            node = pending.pop()
            if node not in visited:
                visited.add(node)
                pending += arrows.get(node, ())
        return visited

    return {node for node in arrows if node in follow(node)}


def folder(package: str, name: str) -> str:
    """Return the folder of a file."""
    return name if modules(package)[name].name == "__init__.py" else name.rpartition(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_between_files(package):
    assert not find_circles(graph(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_between_folders(package):
    arrows: dict[str, set[str]] = {}
    for name, used in graph(package).items():
        here = folder(package, name)
        arrows.setdefault(here, set()).update({folder(package, n) for n in used} - {here, package})
    arrows.pop(package, None)
    assert not find_circles(arrows)


def test_a_circle_is_found():
    assert find_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}


@pytest.mark.parametrize(("package", "table"), [("parareal", ENGINE), ("parareal_diffusers", DIFFUSERS)])
def test_rooms_import_only_those_below(package, table):
    order = list(table)
    for room, below in table.items():
        assert all(order.index(b) > order.index(room) for b in below.split()), f"the table itself: {room} imports up"
    for name, used in graph(package).items():
        room, allowed = name.split(".")[1], table[name.split(".")[1]].split()
        for other in sorted(used):
            target = other.split(".")[1]
            assert target == room or target in allowed, f"{name} imports {other}: {room} may import {allowed}"
    rooms = {name.split(".")[1] for name in graph(package)}
    assert rooms == set(table), "every room stands in the table, and every row is a room"


@pytest.mark.parametrize("room", FLOORS)
def test_folders_within_a_room_import_only_those_below(room):
    package, floors = room.split(".")[0], FLOORS[room]

    def floor(name: str) -> int:
        parts = folder(package, name).removeprefix(room).strip(".").split(".")
        return next(i for i, names in enumerate(floors) if parts[0] in (names.split() or [""]))

    for name, used in graph(package).items():
        for other in used if name.startswith(f"{room}.") else ():
            if other.startswith(f"{room}."):
                assert floor(other) >= floor(name), f"{name} imports {other}, which is on a higher floor"


def test_adapters_use_the_engines_two_interfaces_only():
    for package in ("parareal_torchdiffeq", "parareal_diffusers"):
        for name, path in modules(package).items():
            for used in (*imports(path), *chains(path)):
                assert not re.match(r"parareal\._[a-z]", used), f"{name}: {used}: use parareal or parareal.driver"


def chains(path: Path) -> set[str]:
    """Return the dotted names that a file uses, such as `parareal._run.loop.Run`."""
    return {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_imported_past_the_table(package):
    """No import goes through the package itself, which re-exports everything, or by name at run time."""
    for name, path in modules(package).items():
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(import_module|__import__)\(", source), name
        if name == package:
            continue
        tree = ast.walk(ast.parse(source))
        for node in tree:
            if isinstance(node, ast.Import):
                assert package not in [alias.name for alias in node.names], f"{name} imports {package} itself"
            if isinstance(node, ast.ImportFrom) and node.module == package:
                files = modules(package)
                assert all(f"{package}.{alias.name}" in files for alias in node.names), f"{name} imports re-exports"


def test_what_the_driver_shows_is_documented():
    import parareal.driver as driver

    names = {name for name in vars(driver) if not name.startswith("_")}
    assert driver.__doc__ is not None
    for name in names:
        assert f"`{name}`" in driver.__doc__, f"parareal.driver's text does not say what {name} is for"


def test_the_engine_knows_no_solver():
    """Nothing under parareal/ imports an adapter, diffusers, torchdiffeq or SciPy."""
    for path in modules("parareal").values():
        for used in imports(path):
            assert used.split(".")[0] not in (*PACKAGES, "diffusers", "torchdiffeq", "scipy") or re.match(
                r"parareal(\.|$)", used
            ), f"{path} imports {used}"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_floor_can_be_seen_at_a_glance(package):
    for place in [PACKAGES[package], *(p for p in PACKAGES[package].rglob("*") if p.is_dir())]:
        entries = [p.name for p in place.iterdir() if p.name != "__pycache__"]
        assert len(entries) <= MOST_ENTRIES, f"{place} has {len(entries)} entries"


def test_the_engine_is_made_of_small_pieces():
    """The median file has at most 130 lines, the longest function at most 60 without its docstring."""
    lengths, longest = [], ("", 0)
    for name, path in modules("parareal").items():
        source = path.read_text(encoding="utf-8")
        if path.name != "__init__.py":
            lengths.append(source.count("\n"))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = node.body[-1].end_lineno - body[0].lineno + 1 if body else 0
                longest = max(longest, (f"{name}.{node.name}", lines), key=lambda entry: entry[1])
    assert sorted(lengths)[len(lengths) // 2] <= 130
    assert longest[1] <= 60, longest
