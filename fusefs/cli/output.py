# SPDX-License-Identifier: Apache-2.0
"""What people and programs see: tables and progress on a terminal, plain lines elsewhere, or JSON.

Everything a target says is shown without control characters. A reader that goes away ends the
command quietly (:class:`OutputClosed`). Rich is imported only where it draws something.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

StepCallback = Callable[[str], None]


class OutputClosed(Exception):
    """Nobody reads standard output any more."""


@dataclass(slots=True)
class Invocation:
    """What every command may be asked besides its own arguments."""

    verbose: int = 0
    debug: bool = False
    json: bool = False


def printable(text: object) -> str:
    """``text`` with anything that could move a cursor shown as an escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in str(text)
    )


def write(text: str) -> None:
    """Write to standard output at once.

    Raises:
        OutputClosed: the reader is gone.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
        raise OutputClosed from None


def silence() -> None:
    """Let what Python still has buffered go nowhere, or it would complain at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def warn(text: str) -> None:
    """One line on standard error that is not the reason for a failure."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"pyscsi-init: {text}\n")
        sys.stderr.flush()


def document(value: Any) -> None:
    """One JSON document."""
    write(json.dumps(value, indent=2, ensure_ascii=True, default=str) + "\n")


def line(value: Any) -> None:
    """One JSON document on a line of its own."""
    write(json.dumps(value, ensure_ascii=True, default=str) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows under headings."""
    texts = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            drawn.add_column(column, overflow="fold")
        for row in texts:
            drawn.add_row(*(Text(cell) for cell in row))
        write(_drawn(drawn))
        return
    lines = [list(columns), *texts]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        write("  ".join(cells).rstrip() + "\n")


def fields(groups: Mapping[str, Mapping[str, object]]) -> None:
    """Names and values under headings."""
    width = max((len(name) for group in groups.values() for name in group), default=0)
    bold, normal = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
    for title, group in groups.items():
        write(f"{bold}{title}{normal}\n")
        for name, value in group.items():
            write(f"  {name.ljust(width)}  {printable(value)}\n")


def _drawn(renderable: Any) -> str:
    from rich.console import Console

    console = Console()
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


@contextlib.contextmanager
def steps(invocation: Invocation) -> Iterator[StepCallback]:
    """A callback for the steps of a long command: spinner, lines with ``--verbose``, or nothing."""
    if sys.stderr.isatty() and not invocation.verbose:
        from rich.console import Console
        from rich.markup import escape

        console = Console(stderr=True)
        with console.status("starting") as status:
            yield lambda text: status.update(escape(printable(text)))
    elif invocation.verbose:
        yield lambda text: warn(printable(text))
    else:
        yield lambda _text: None


def size_text(size: int) -> str:
    """``64 MiB``: a size for people."""
    value, units = float(size), ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
    for unit in units[:-1]:
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} {units[-1]}"
