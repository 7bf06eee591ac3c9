# SPDX-License-Identifier: Apache-2.0
"""The protocol core does no I/O, reads no clock and draws no random number.

What it needs of them comes in as arguments, and what it has to say goes out as return values: that
is why every recovery path can be tested without a socket and without waiting.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.source import ROOT, called_name, calls, imports, name_of, python_files, tree_of

FOLDERS = tuple(f"pyscsi_init/{name}" for name in ("pdu", "scsi", "login", "connection", "session"))

# The codecs and machines of the name services, beside the clients that move their bytes.
MODULES = (
    "isns/attributes", "isns/machine", "isns/messages", "isns/pdu", "isns/status",
    "slp/machine", "slp/messages", "slp/urls", "targets",
)  # fmt: skip


def sans_io_files() -> list[Path]:
    found = [ROOT / "pyscsi_init/discovery" / f"{name}.py" for name in MODULES]
    return [*python_files(*FOLDERS), *found]


FORBIDDEN_MODULES = {
    "anyio",
    "asyncio",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "sniffio",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "trio",
    "uvloop",
}

FORBIDDEN_CALLS = {
    "datetime.datetime.now", "datetime.now", "input", "open", "print", "uuid.uuid1", "uuid.uuid4",
}  # fmt: skip


def test_no_forbidden_import() -> None:
    found = [
        f"{name_of(path)}:{line} imports {name}"
        for path in sans_io_files()
        for line, name in imports(path)
        if name.split(".")[0] in FORBIDDEN_MODULES
    ]
    assert not found, "\n".join(found)


def test_no_forbidden_call() -> None:
    found = [
        f"{name_of(path)}:{call.lineno} calls {called_name(call)}"
        for path in sans_io_files()
        for call in calls(path)
        if called_name(call) in FORBIDDEN_CALLS
    ]
    assert not found, "\n".join(found)


def test_no_coroutine() -> None:
    found = [
        f"{name_of(path)}:{node.lineno} is async"
        for path in sans_io_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncWith | ast.AsyncFor | ast.Await)
    ]
    assert not found, "\n".join(found)
