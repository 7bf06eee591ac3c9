# SPDX-License-Identifier: Apache-2.0
"""``--trace FILE`` and ``--trace-size SIZE``: what a command sends and receives, for Wireshark.

They are the settings ``trace`` and ``trace_size`` under names for people, with the file looked at
before anything is done, and with an absolute name, because a volume's worker lives elsewhere.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from pyscsi_init.errors import ConfigurationError
from pyscsi_init.transport.tracefile import check_trace_file

_SIZE = re.compile(r"(\d+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def size_option(_ctx: click.Context, parameter: click.Parameter, text: str | None) -> int:
    """Bytes, from ``4096``, ``4k``, ``1M`` or ``1MiB``: units are binary, as fio has them."""
    if text is None:
        return 0
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(
            parameter.opts[0], text, "is no size", "a number of bytes, or one such as 4k, 1M, 2G"
        )
    return int(match[1]) << _UNITS[match[2].lower()]


def _trace_file(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    path = Path(text).absolute()
    check_trace_file(path)
    return str(path)


TRACE_OPTIONS = (
    click.option(
        "--trace",
        metavar="FILE",
        callback=_trace_file,
        help="Write what is sent and received to this pcapng file, secrets masked.",
    ),
    click.option(
        "--trace-size",
        metavar="SIZE",
        callback=size_option,
        help="How long it may become before it is renamed to FILE.1 [default: 256M].",
    ),
)


def trace_settings(trace: str | None, trace_size: int) -> dict[str, str | int]:
    """The settings that the two options ask for."""
    values: dict[str, str | int] = {}
    if trace is not None:
        values["trace"] = trace
    if trace_size:
        values["trace_size"] = trace_size
    return values
