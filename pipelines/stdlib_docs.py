"""Documentation strings of the Python standard library, as documents: real text that every machine has.

Modules are read with `ast`; none is imported.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from pipelines.documents import printable
from pipelines.errors import SourceError

_SKIPPED = frozenset(
    {"test", "tests", "idlelib", "idle_test", "lib2to3", "site-packages", "ensurepip", "turtledemo", "pydoc_data"}
    | {"distutils", "encodings", "msilib", "macholib", "lib-dynload"}
)
_MODULE_CHARACTERS = 1500
_ENTRY_CHARACTERS = 400
_DOCUMENT_CHARACTERS = 3000

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def stdlib_documents(root: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, Markdown) of every public module that documents itself, in name order.

    A long module is cut at an entry, never inside one, so that the whole stays between 100,000 and 200,000 tokens.

    Args:
        root: Folder of a standard library; None takes the running Python's.

    Raises:
        SourceError: the library's sources are not on this machine.
    """
    folder = root or Path(sysconfig.get_paths()["stdlib"])
    modules = sorted((name, path) for path in folder.rglob("*.py") if (name := _module_name(path.relative_to(folder))))
    if not modules:
        raise SourceError(
            f"no Python sources in {folder}; the standard library's documentation strings are read there: "
            "use a Python that has its library unpacked"
        )
    for name, path in modules:
        text = module_text(name, path.read_bytes())
        if text:
            yield name, text


def write_stdlib_documents(folder: Path, root: Path | None = None) -> int:
    """Make a folder hold one Markdown file per module, `gzip.md` and so on, and no other Markdown.

    Files that are right already are left alone.

    Args:
        folder: Made when it is missing.
        root: Folder of a standard library; None takes the running Python's.

    Returns:
        Number of modules.

    Raises:
        SourceError: the library's sources are not there, or the folder cannot be written.
    """
    texts = {f"{name}.md": printable(text) for name, text in stdlib_documents(root)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.md"):
            if old.name not in texts:
                old.unlink()
        for name, text in texts.items():
            path = folder / name
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SourceError(f"documents cannot be written to {folder}: {error}") from error
    return len(texts)


def module_text(name: str, code: bytes) -> str:
    """Lay out a module's documentation strings as Markdown; "" when it has none or cannot be parsed."""
    tree = _parsed(code)
    if tree is None:
        return ""
    introduction = _shortened(ast.get_docstring(tree) or "", _MODULE_CHARACTERS)
    entries = list(_entries(tree.body, prefix="", level=2))
    if not introduction and not entries:
        return ""
    text = f"# {name}\n" + (f"\n{introduction}\n" if introduction else "")
    for entry in entries:
        if len(text) + len(entry) > _DOCUMENT_CHARACTERS:
            break
        text += f"\n{entry}\n"
    return text


def _parsed(code: bytes) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in somebody's docstring is not ours to report
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError):
            return None


def _module_name(relative: Path) -> str:
    """Return the dotted name, or "" for what is not a public module."""
    parts = relative.with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    hidden = any(part.startswith("_") or part in _SKIPPED or not part.isidentifier() for part in parts)
    return "" if hidden else ".".join(parts)


def _entries(body: list[ast.stmt], prefix: str, level: int) -> Iterator[str]:
    """Yield heading and text of every documented public class, method and function."""
    for node in body:
        if not isinstance(node, ast.ClassDef | _Function) or node.name.startswith("_"):
            continue
        is_class = isinstance(node, ast.ClassDef)
        docstring = ast.get_docstring(node)
        if docstring:
            heading = f"{'#' * level} {_signature(node, prefix)}"
            yield f"{heading}\n\n{_shortened(docstring, _ENTRY_CHARACTERS)}"
        if is_class:
            yield from _entries(node.body, f"{prefix}{node.name}.", min(level + 1, 4))


def _signature(node: ast.ClassDef | _Function, prefix: str) -> str:
    """Name a class, or a function with its public parameters, without defaults: a heading is to be read."""
    if isinstance(node, ast.ClassDef):
        return f"class {prefix}{node.name}"
    arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    names = [argument.arg for argument in arguments if not argument.arg.startswith("_")]
    return f"{prefix}{node.name}({', '.join(name for name in names if name not in ('self', 'cls'))})"


def _shortened(docstring: str, limit: int) -> str:
    """Keep whole paragraphs up to a number of characters, the first one always; a comment is no heading."""
    kept: list[str] = []
    used = 0
    for paragraph in docstring.strip().split("\n\n"):
        used += len(paragraph)
        if kept and used > limit:
            break
        kept.append(paragraph.rstrip())
    text = "\n" + "\n\n".join(kept)
    return text.replace("\n#", "\n\\#")[1:]
