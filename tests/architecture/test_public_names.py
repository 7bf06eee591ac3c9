# SPDX-License-Identifier: Apache-2.0
"""The public names of the library: each exists, is documented, and is told in the reference."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

from tests.support.source import ROOT, tree_of

MODULE = "pyscsi_init"


def public_names() -> list[str]:
    return list(importlib.import_module(MODULE).__all__)


def test_each_name_can_be_imported() -> None:
    module = importlib.import_module(MODULE)
    names = public_names()
    assert len(set(names)) == len(names) > 0
    assert [name for name in names if not hasattr(module, name)] == []


def test_each_class_and_function_has_a_docstring() -> None:
    module = importlib.import_module(MODULE)
    found = [
        name
        for name in public_names()
        if (inspect.isclass(thing := getattr(module, name)) or callable(thing))
        and not inspect.getdoc(thing)
    ]
    assert not found


def test_each_name_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/library.md").read_text()
    found = [name for name in public_names() if not re.search(rf"\b{re.escape(name)}\b", text)]
    assert not found, f"docs/reference/library.md does not tell of {', '.join(found)}"


def test_the_face_defines_nothing() -> None:
    """pyscsi_init/__init__.py re-exports; code in it would be code without a place."""
    tree = tree_of(ROOT / MODULE / "__init__.py")
    kinds = {type(node).__name__ for node in tree.body}
    assert not kinds & {"ClassDef", "FunctionDef", "AsyncFunctionDef"}


@pytest.mark.parametrize("name", ["pyscsi_init", "fusefs"])
def test_types_are_shipped(name: str) -> None:
    assert (ROOT / name / "py.typed").is_file()
