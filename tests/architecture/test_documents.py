# SPDX-License-Identifier: Apache-2.0
"""What the documents say can be checked: links lead somewhere, settings and targets are as told."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import pyscsi_init.errors
from pyscsi_init.settings import Settings
from tests.support.source import ROOT, name_of, project_files, text_of

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


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
