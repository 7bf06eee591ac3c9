# SPDX-License-Identifier: Apache-2.0
"""One SCSI command as a coroutine: for control work and for raw use, not for the data path."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from ..buffers import Buffer, byte_view
from ..errors import ConfigurationError
from ..session import BidirectionalTask, ManagementTask, Replay, ScsiTask, TaskManagementFunction

if TYPE_CHECKING:
    from .session import Session

LONGEST_CDB = 260
"""SPC-4 4.2.5: eight bytes and up to 252 more."""
MOST_DATA = (1 << 32) - 1
"""Expected Data Transfer Length is four bytes (RFC 7143 11.3.4)."""
LONGEST_WAIT = 86400.0
"""Seconds, as in the settings."""


@dataclass(frozen=True, slots=True)
class ScsiResult:
    """How a command ended. ``data`` is what came, which may be less than what was asked for.

    Residuals are in bytes (RFC 7143 11.4.5). Of a command that transfers both ways the first three
    are of what was written, the ``bidi`` ones of what was read.
    """

    status: int
    sense: bytes
    data: bytes
    residual_count: int
    residual_overflow: bool
    residual_underflow: bool
    bidi_residual_count: int = 0
    bidi_residual_overflow: bool = False
    bidi_residual_underflow: bool = False


async def run_command(
    session: Session,
    lun: bytes,
    cdb: bytes,
    *,
    data_out: Buffer = b"",
    data_in_length: int = 0,
    seconds: float | None = None,
    modifies: bool = True,
    replay: Replay = Replay.NEVER,
    control: bool = False,
) -> ScsiResult:
    """Send a command and wait for its status, whatever that is.

    Raises:
        ConfigurationError, TypeError: an argument cannot be used; nothing was sent.
        TaskError, ConnectionLost: no status came (see :mod:`pyscsi_init.errors`).

    Cancellation: the command is aborted with ABORT TASK; it may have been done or not.
    """
    session.check_thread()
    # All of it is looked at before the command has a number: one that cannot be built after that
    # would leave a hole in the numbers, for which the target waits.
    cdb = bytes(byte_view("CDB", cdb))
    if not 1 <= len(cdb) <= LONGEST_CDB:
        raise ConfigurationError(
            "CDB", cdb[:16].hex(" "), f"has {len(cdb)} bytes", f"a CDB has 1 to {LONGEST_CDB}"
        )
    data = bytes(byte_view("data_out", data_out))
    data_in_length = operator.index(data_in_length)
    for name, length in (("data_out", len(data)), ("data_in_length", data_in_length)):
        if not 0 <= length <= MOST_DATA:
            raise ConfigurationError(name, length, f"is not in 0..{MOST_DATA} bytes")
    event = anyio.Event()
    buffer = bytearray(data_in_length)
    options: dict[str, Any] = {
        "replay": replay,
        "modifies": modifies,
        "control": control,
        "timeout": timeout_of(seconds, session.settings.command_timeout),
    }
    data_in = memoryview(buffer) if data_in_length else None
    out = memoryview(data) if data else None
    task: ScsiTask
    if data_in is not None and out is not None:
        task = both = BidirectionalTask(
            lun, cdb, lambda _: event.set(), data_in=data_in, data_out=out, **options
        )
        session.submit_bidirectional(both)
    else:
        task = ScsiTask(lun, cdb, lambda _: event.set(), data_in=data_in, data_out=out, **options)
        session.submit(task)
    try:
        await event.wait()
    except BaseException:
        session.abort_task(task)
        raise
    if task.error is not None:
        raise task.error
    result = ScsiResult(
        task.status,
        task.sense,
        bytes(buffer[: task.received]),
        task.residual_count,
        task.residual_overflow,
        task.residual_underflow,
    )
    if isinstance(task, BidirectionalTask):
        result = replace(
            result,
            bidi_residual_count=task.bidi_residual_count,
            bidi_residual_overflow=task.bidi_residual_overflow,
            bidi_residual_underflow=task.bidi_residual_underflow,
        )
    return result


def timeout_of(seconds: float | None, default: float) -> float:
    """The time of one request: as given, or by the settings.

    Raises:
        ConfigurationError: it is no number, or out of range.
    """
    if seconds is None:
        return default
    if not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST_WAIT:
        raise ConfigurationError("seconds", seconds, f"is not a number in 0..{LONGEST_WAIT:g}")
    return seconds


async def run_management(
    session: Session, function: TaskManagementFunction, lun: bytes, *, seconds: float | None = None
) -> int:
    """Send a task management request; returns the response code (RFC 7143 11.6.1).

    Raises:
        ConnectionLost: no response came. With a reset that may be its effect.
    """
    event = anyio.Event()
    request = ManagementTask(
        function,
        lun,
        lambda _: event.set(),
        timeout=timeout_of(seconds, session.settings.task_management_timeout),
    )
    session.manage(request)
    await event.wait()
    if request.error is not None:
        raise request.error
    return request.response
