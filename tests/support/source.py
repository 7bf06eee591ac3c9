# SPDX-License-Identifier: Apache-2.0
"""The project's own source as data: files, syntax trees, comments, and who imports whom.

tests/architecture asks its questions here, so that each law there is a few lines.
"""

from __future__ import annotations

import ast
import functools
import io
import shutil
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("pyscsi_init", "fusefs")
NOT_OURS = {
    ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".cache",
    "__pycache__", "build", "dist", "bench-results",
}  # fmt: skip


@functools.cache
def project_files() -> tuple[Path, ...]:
    """Every file that is, or would be, under version control."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        listed = subprocess.run(
            [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        names = listed.stdout.decode().rstrip("\0").split("\0")
        return tuple(sorted(path for name in names if (path := ROOT / name).is_file()))
    # An unpacked source distribution, or no git: everything but what tools leave behind.
    return tuple(
        sorted(
            path
            for path in ROOT.rglob("*")
            if path.is_file() and not set(path.relative_to(ROOT).parts) & NOT_OURS
        )
    )


def name_of(path: Path) -> str:
    """The path as the project knows it."""
    return str(path.relative_to(ROOT))


def python_files(*folders: str) -> list[Path]:
    """The Python files of the project, or of these folders of it."""
    return [
        path
        for path in project_files()
        if path.suffix == ".py"
        and (not folders or any(name_of(path).startswith(f"{each}/") for each in folders))
    ]


@functools.cache
def text_of(path: Path) -> str:
    """The text of a file."""
    return path.read_text(encoding="utf-8")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(text_of(path), str(path))


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, also of those below an attribute."""
    for node in ast.walk(tree_of(path)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            ):
                yield statement.lineno, statement.value.value


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each comment."""
    for token in tokenize.generate_tokens(io.StringIO(text_of(path)).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of what a file says to people: comments and docstrings."""
    yield from comments(path)
    yield from docstrings(path)


# -- imports ------------------------------------------------------------------------------------


def module_of(path: Path) -> str:
    """The dotted name of a Python file."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


@functools.cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of both packages."""
    return {module_of(path): path for path in python_files(*PACKAGES)}


def _only_for_annotations(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path, *, annotations: bool = True) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a file imports, also inside functions.

    ``from a.b import c`` gives ``a.b.c`` where that is a module of ours, else ``a.b``. With
    ``annotations`` what stands below ``if TYPE_CHECKING`` counts too.
    """
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    skipped = {
        inner
        for node in ast.walk(tree_of(path))
        if not annotations and _only_for_annotations(node)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree_of(path)):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                yield node.lineno, full if full in modules() else origin


def called_name(call: ast.Call) -> str:
    """``a.b.c`` of a call ``a.b.c(...)``; what is not a plain name is left out."""
    parts: list[str] = []
    node: ast.expr = call.func
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))


def calls(path: Path) -> Iterator[ast.Call]:
    """Every call in a file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            yield node
