# SPDX-License-Identifier: Apache-2.0
"""Each source file says its licence in the first line and what it is in a docstring."""

from __future__ import annotations

import ast

from tests.support.source import name_of, project_files, python_files, text_of, tree_of

SPDX = "SPDX-License-Identifier: Apache-2.0"
SCRIPT_FOLDERS = ("scripts/", ".ci/")


def first_line(text: str) -> str:
    """The first line that is no interpreter line."""
    lines = text.splitlines() or [""]
    return lines[1] if lines[0].startswith("#!") and len(lines) > 1 else lines[0]


def test_each_source_file_names_the_licence() -> None:
    found = [
        name_of(path)
        for path in project_files()
        if (
            path.suffix in (".py", ".c", ".h", ".sh")
            or name_of(path) == "Makefile"
            or name_of(path).startswith(SCRIPT_FOLDERS)
        )
        and SPDX not in first_line(text_of(path))
    ]
    assert not found, "\n".join(found)


def test_each_module_says_what_it_is() -> None:
    found = [name_of(path) for path in python_files() if not ast.get_docstring(tree_of(path))]
    assert not found, "\n".join(found)


def test_annotations_are_lazy() -> None:
    """One rule for all files, so that annotations mean the same everywhere."""
    found = [
        name_of(path)
        for path in python_files()
        if len(tree_of(path).body) > 1
        and "from __future__ import annotations" not in text_of(path)
        and not name_of(path).endswith("__init__.py")
    ]
    assert not found, "\n".join(found)
