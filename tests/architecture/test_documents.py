# SPDX-License-Identifier: Apache-2.0
"""What the documents say can be checked: links lead somewhere, settings and targets are as told,
programs are programs. Commands and sentences: tests/fusefs/cli/test_documents.py.
"""

from __future__ import annotations

import ast
import importlib
import re
from dataclasses import fields
from pathlib import Path

import pytest

import pyscsi_init.errors
from pyscsi_init.settings import Settings
from tests.support.source import PACKAGES, ROOT, name_of, project_files, text_of

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
TO_HEADING = re.compile(r"\[[^\]]*\]\(([^)#\s]*)#([^)\s]+)\)")
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def documents() -> list[Path]:
    return [path for path in project_files() if path.suffix == ".md"]


def test_links_lead_somewhere() -> None:
    found = [
        f"{name_of(path)}: {target}"
        for path in documents()
        for target in LINK.findall(text_of(path))
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert not found, "\n".join(found)


def anchors(path: Path) -> set[str]:
    """How headings are named in links: lower case, without punctuation, spaces as hyphens, and a
    number where there is another one of that name."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+)$", BLOCK.sub("", text_of(path)), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    numbers = [found[:index].count(name) for index, name in enumerate(found)]
    return {f"{name}-{n}" if n else name for name, n in zip(found, numbers, strict=True)}


def test_links_to_headings_find_them() -> None:
    wrong, asked = [], 0
    for path in documents():
        for target, heading in TO_HEADING.findall(text_of(path)):
            page = (path.parent / target).resolve() if target else path
            if "://" not in target:
                asked += 1
                if page.suffix != ".md" or heading not in anchors(page):
                    wrong.append(f"{name_of(path)}: {target}#{heading}")
    assert not wrong, "\n".join(wrong)
    assert asked > 40


def test_programs_that_are_shown_are_programs() -> None:
    """They parse, and what they import of ours is there."""
    wrong, imported = [], 0
    for path in documents():
        for _, language, text in BLOCK.findall(text_of(path)):
            if language != "python":
                continue
            flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            for node in ast.walk(compile(text, name_of(path), "exec", flags)):
                names: list[str] = []
                module = "pyscsi_init"
                if isinstance(node, ast.ImportFrom) and node.module:
                    module, names = node.module, [each.name for each in node.names]
                elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == module:
                    names = [node.attr]
                if names and module.partition(".")[0] in PACKAGES:
                    there = importlib.import_module(module)
                    imported += 1
                    lost = [name for name in names if not hasattr(there, name)]
                    wrong += [f"{name_of(path)}: {module}.{name}" for name in lost]
    assert not wrong, "\n".join(wrong)
    assert imported > 10


def test_the_number_of_requirements_is_that_of_the_page() -> None:
    page = (ROOT / "docs/compliance/rfc7143.md").read_text()
    rows = re.findall(r"^\| [A-Z]+-\d+ \|", page, re.MULTILINE)
    assert f"| {len(rows)} requirements and their tests" in (ROOT / "README.md").read_text()


def test_every_document_can_be_found() -> None:
    """From the README or the index, by links."""
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached or not path.is_file() or path.suffix != ".md":
            continue
        reached.add(path)
        waiting += [
            (path.parent / target).resolve()
            for target in LINK.findall(text_of(path))
            if "://" not in target
        ]
    lost = [name_of(path) for path in documents() if path not in reached]
    assert not lost, f"no link leads to {', '.join(lost)}"


def shown(value: object) -> str:
    """A default as the reference writes it."""
    if isinstance(value, bool):
        return "`Yes`" if value else "`No`"
    return "`" + ",".join(value) + "`" if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_each_setting_is_told_with_its_default(name: str) -> None:
    text = (ROOT / "docs/reference/settings.md").read_text()
    assert f"| `{name}` | {shown(getattr(Settings(), name))} |" in text


def test_no_setting_is_told_that_does_not_exist() -> None:
    text = (ROOT / "docs/reference/settings.md").read_text()
    told = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert told == {field.name for field in fields(Settings)}


def test_each_error_is_told() -> None:
    text = (ROOT / "docs/reference/library.md").read_text()
    names = [
        name
        for name, thing in vars(pyscsi_init.errors).items()
        if isinstance(thing, type) and issubclass(thing, pyscsi_init.errors.IscsiError)
    ]
    assert len(names) > 20
    assert [name for name in names if f"`{name}`" not in text] == []


def test_make_targets_that_are_told_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = {
        target
        for path in documents()
        for target in re.findall(r"(?:^|`)make ([a-z][\w-]*)", text_of(path), re.MULTILINE)
    }
    assert told - targets == set()
    assert {"demo", "test", "lint", "bench", "soak", "clean", "venv"} <= targets


def test_tests_that_are_told_exist() -> None:
    """`tests/file.py::test_name`, and test files and folders by themselves."""
    wrong = []
    told = 0
    for path in documents():
        for file, name in re.findall(r"`(tests/[\w/.]+?)(?:::(\w+))?`", text_of(path)):
            told += 1
            place = ROOT / file
            there = place.exists() and (not name or f"def {name}(" in text_of(place))
            if not there:
                wrong.append(
                    f"{name_of(path)}: {file}::{name}" if name else f"{name_of(path)}: {file}"
                )
    assert not wrong, "\n".join(wrong)
    assert told > 50
