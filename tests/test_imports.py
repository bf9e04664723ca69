"""The house rules that a linter cannot state: who imports whom, what is public, how long a file may be."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("kvembed", "pipelines", "flows")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
CHECKED = [*MODULES, *sorted(path for folder in ("scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py"))]

# Top-level packages that a room must not import; values name the files that may.
FORBIDDEN: dict[str, dict[str, tuple[str, ...]]] = {
    "kvembed": {
        "pipelines": (),
        "flows": (),
        "prefect": (),
        "qdrant_client": (),
        "datasets": (),
        "langchain_qdrant": (),
        "langchain_core": ("kvembed/langchain.py",),
        "mteb": ("kvembed/mteb.py",),
    },
    "pipelines": {"flows": (), "prefect": ()},
    "flows": {"torch": (), "transformers": (), "qdrant_client": (), "langchain_core": (), "langchain_qdrant": ()},
}
# Modules of pipelines that would need torch to import would make `kvembed --help` take seconds.
HEAVY = ("torch", "transformers", "datasets", "prefect", "matplotlib", "langchain_core", "langchain_qdrant")
MAX_LINES, MAX_BODY, MAX_NESTING = 300, 40, 3


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_imports_only_what_its_room_may(path):
    forbidden = FORBIDDEN[path.relative_to(ROOT).parts[0]]
    found = [
        f"{relative(path)}:{line} imports {name}"
        for line, name in imported(path)
        if relative(path) not in forbidden.get(name.split(".")[0], (relative(path),))
    ]
    assert not found


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_reads_environment_only_in_settings(path):
    """A value read elsewhere is one that no documentation of the settings names."""
    if relative(path) == "pipelines/settings.py":
        return
    source = ast.parse(path.read_text(encoding="utf-8"))
    found = [node.lineno for node in ast.walk(source) if isinstance(node, ast.Attribute) and node.attr == "environ"]
    found += [
        node.lineno
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute | ast.Name)
        and getattr(node, "attr", getattr(node, "id", "")) in ("getenv", "putenv")
    ]
    found += [node.lineno for node in ast.walk(source) if isinstance(node, ast.ImportFrom) and node.module == "os"]
    assert not found, f"{relative(path)}: lines {found} reach for the environment; pipelines/settings.py does that"


@pytest.mark.parametrize("path", CHECKED, ids=relative)
def test_file_is_short_and_says_what_it_is_about(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{relative(path)} has {lines} lines"
    assert not {"utils", "common", "helpers", "misc"} & {part.lower() for part in (*path.parent.parts, path.stem)}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_function_fits_in_one_look(path):
    too_long = [
        f"{relative(path)}:{function.lineno} {function.name}: {length} lines"
        for function in functions(path)
        if (length := body_lines(function)) > MAX_BODY
    ]
    too_deep = [
        f"{relative(path)}:{function.lineno} {function.name}: nesting {depth}"
        for function in functions(path)
        if (depth := nesting(function)) > MAX_NESTING
    ]
    assert not too_long + too_deep


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count lines of a body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Measure how deep compound statements of one function stand in each other; `elif` is no level of its own."""
    deepest = depth
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            is_elif = isinstance(node, ast.If) and field == "orelse" and isinstance(child, ast.If) and len(value) == 1
            opens = isinstance(child, ast.If | ast.For | ast.While | ast.With | ast.Try | ast.Match) and not is_elif
            deepest = max(deepest, nesting(child, depth + opens))
    return deepest


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_and_its_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = [] if ast.get_docstring(tree) else [f"{relative(path)}:1 the module"]
    bare += [
        f"{relative(path)}:{node.lineno} {node.name}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not bare


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_exists_for_python(path):
    """Every file can be imported by its name, whatever was imported before it."""
    importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


def rooms() -> list[ModuleType]:
    return [importlib.import_module(room) for room in ROOMS]


@pytest.mark.parametrize("room", ROOMS)
def test_all_names_exactly_what_is_public(room):
    package = importlib.import_module(room)
    assert isinstance(package.__all__, list)
    assert len(set(package.__all__)) == len(package.__all__)
    missing = [name for name in package.__all__ if not hasattr(package, name)]
    assert not missing, f"{room}.__all__ promises {missing}"
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name not in ("annotations", "TYPE_CHECKING")
    }
    assert public <= set(package.__all__), f"{room} shows {sorted(public - set(package.__all__))} beside __all__"


def test_public_functions_stay_functions_beside_modules_of_their_name():
    """`pipelines.ingest` is a function and a module's name; importing the module must not replace the function."""
    for path in MODULES:
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    shadowed = [
        f"{package.__name__}.{name}"
        for package in rooms()
        for name in package.__all__
        if inspect.ismodule(getattr(package, name))
    ]
    assert not shadowed


def run_python(code: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT).stdout


def test_import_pipelines_cli_loads_nothing_heavy():
    """`kvembed --help` answers at once only as long as nothing on its way imports torch or Prefect."""
    loaded = run_python(f"import sys, pipelines.cli; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_import_of_every_module_opens_no_connection():
    """A package that calls home when imported cannot be used behind a closed door."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in MODULES]
    code = (
        "import importlib, socket\n"
        "def refuse(*args, **kwargs): raise SystemExit(f'a connection at import: {args}')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print('quiet')"
    )
    assert run_python(code).strip() == "quiet"
