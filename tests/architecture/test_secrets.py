# SPDX-License-Identifier: Apache-2.0
"""A secret leaves its Secret in two places only, and never towards a person or a log.

``reveal()`` is called where CHAP computes with it and where it goes through the pipe to a worker.
"""

from __future__ import annotations

import ast

import pytest

from tests.support.source import PACKAGES, called_name, calls, name_of, python_files, tree_of

MAY_REVEAL = ("pyscsi_init/login/chap.py", "fusefs/process/")

SPEAKERS = {
    "print", "debug", "info", "warning", "error", "exception", "critical", "log", "echo", "secho",
    "write_text", "repr", "str", "format", "Popen", "run", "run_process", "open_process",
}  # fmt: skip


def reveals(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Attribute) and each.attr == "reveal" for each in ast.walk(node))


def speaking(tree: ast.AST) -> list[int]:
    """Lines where a revealed secret is formatted, logged, printed, raised or put into argv."""
    found = []
    for node in ast.walk(tree):
        arguments: list[ast.AST] = []
        if isinstance(node, ast.Call) and called_name(node).split(".")[-1] in SPEAKERS:
            arguments = [*node.args, *node.keywords]
        elif isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert):
            arguments = [node]
        if any(reveals(argument) for argument in arguments):
            found.append(getattr(node, "lineno", 0))
    return found


def test_only_chap_and_the_worker_pipe_reveal() -> None:
    found = [
        f"{name_of(path)}:{call.lineno}"
        for path in python_files(*PACKAGES)
        if not name_of(path).startswith(MAY_REVEAL)
        for call in calls(path)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "reveal"
    ]
    assert not found, "\n".join(found)


def test_a_revealed_secret_is_never_spoken() -> None:
    found = [
        f"{name_of(path)}:{line}"
        for path in python_files(*PACKAGES)
        for line in speaking(tree_of(path))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "log.info('x %s', chap.secret.reveal())",
        "print(secret.reveal())",
        "f'{secret.reveal()}'",
        "subprocess.run(['x', secret.reveal()])",
    ],
)
def test_the_law_itself(source: str) -> None:
    assert speaking(ast.parse(source))
    assert not speaking(ast.parse("digest.update(secret.reveal())"))
