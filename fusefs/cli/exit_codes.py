# SPDX-License-Identifier: Apache-2.0
"""Exit statuses: one number for each kind of thing that a script may want to tell apart.

The table is the documentation (``pyscsi-init --help`` prints it) and the mapping at once, so the
two cannot drift. It knows the error trees and nothing of the commands.
"""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass

import click

from fusefs import errors as volume
from fusefs.volume_errors import AlreadyServed, VolumeInUse
from pyscsi_init import errors as iscsi

OK = 0
FAILED = 1
USAGE = 2
NOT_ALLOWED = 3
UNREACHABLE = 4
LOGIN_REFUSED = 5
AUTHENTICATION = 6
NO_LUN = 7
PROTOCOL = 8
IO = 9
BUSY = 10
IN_USE = 11
NO_VOLUME = 12
CONTENT = 13
READ_ONLY = 14
TIMEOUT = 15
NO_SPACE = 16
HOST = 17
BROKEN_PIPE = 128 + signal.SIGPIPE


@dataclass(frozen=True, slots=True)
class Row:
    """One exit status, what it means, and the errors that end with it."""

    status: int
    meaning: str
    errors: tuple[type[BaseException], ...] = ()


TABLE = (
    Row(OK, "done"),
    Row(FAILED, "failed in another way; doctor found something missing"),
    Row(
        USAGE,
        "usage, or a value that cannot work",
        (
            click.UsageError,
            iscsi.ConfigurationError,
            volume.InvalidSpec,
            FileNotFoundError,
            IsADirectoryError,
            NotADirectoryError,
        ),
    ),
    Row(
        NOT_ALLOWED,
        "not allowed: not root, a missing device or program",
        (volume.NotAllowed, PermissionError),
    ),
    Row(UNREACHABLE, "no TCP connection to the portal or the server", (iscsi.ConnectError,)),
    Row(
        LOGIN_REFUSED,
        "login refused, unknown target; a name server refused",
        (iscsi.LoginError, iscsi.DiscoveryError),
    ),
    Row(
        AUTHENTICATION,
        "authentication failed",
        (iscsi.AuthenticationFailed, iscsi.TargetAuthenticationFailed),
    ),
    Row(NO_LUN, "no such LUN, or not a disk", (iscsi.LunNotFound, iscsi.NotABlockDevice)),
    Row(PROTOCOL, "the target broke the protocol", (iscsi.ProtocolError,)),
    Row(
        IO,
        "I/O error, connection lost",
        (
            iscsi.ConnectionLost,
            iscsi.TaskError,
            iscsi.ScsiError,
            iscsi.DeviceError,
            OSError,
        ),
    ),
    Row(
        BUSY,
        "busy or reserved",
        (
            volume.DeviceBusy,
            volume.OperationInProgress,
            iscsi.DeviceBusy,
            iscsi.ReservationConflict,
            iscsi.HeldByAnother,
            iscsi.IsnsBusy,
        ),
    ),
    Row(
        IN_USE,
        "name or volume in use, LUN already attached",
        (volume.NameInUse, volume.AlreadyAttached, VolumeInUse),
    ),
    Row(NO_VOLUME, "no such volume", (volume.NoSuchVolume,)),
    Row(
        CONTENT,
        "content: blank, not blank, another file system, errors in it",
        (volume.ContentError, volume.MountFailed, volume.FormatFailed),
    ),
    Row(READ_ONLY, "read-only", (iscsi.ReadOnlyDevice, iscsi.DataProtect)),
    Row(
        TIMEOUT,
        "not over in time",
        (
            iscsi.LoginTimeout,
            iscsi.TaskTimeout,
            iscsi.DiscoveryTimeout,
            volume.Timeout,
            TimeoutError,
        ),
    ),
    Row(NO_SPACE, "no space, or the destination is too small", (iscsi.SpaceExhausted,)),
    Row(
        HOST,
        "this host, a worker process or the demo failed",
        (volume.HostError, volume.WorkerFailed, volume.VolumeError),
    ),
    Row(128 + signal.SIGHUP, "ended by SIGHUP, after cleaning up"),
    Row(128 + signal.SIGINT, "ended by Ctrl-C, after cleaning up"),
    Row(BROKEN_PIPE, "the reader of the output went away"),
    Row(128 + signal.SIGTERM, "ended by SIGTERM, after cleaning up"),
)

_BY_CLASS = {error: row.status for row in TABLE for error in row.errors}

_BY_ERRNO = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: NO_SPACE,
    errno.EROFS: READ_ONLY,
    errno.EBUSY: BUSY,
    errno.ETXTBSY: BUSY,
}


class TooSmall(Exception):
    """The destination of a copy has no room for the source."""


_BY_CLASS[TooSmall] = NO_SPACE
_BY_CLASS[AlreadyServed] = BUSY


def status_of(error: BaseException) -> int:
    """The exit status for an error: of its class, or of the nearest class above it."""
    if isinstance(error, OSError) and error.errno in _BY_ERRNO:
        return _BY_ERRNO[error.errno]
    if isinstance(error, volume.CallFailed) and getattr(error, "errno", 0) == errno.EPERM:
        return NOT_ALLOWED  # a capability is missing, and nothing is wrong with what was mounted
    for cls in type(error).__mro__:
        if cls in _BY_CLASS:
            return _BY_CLASS[cls]
    return FAILED


def is_expected(error: BaseException) -> bool:
    """An error that is told in one sentence; all others are faults of ours and show where."""
    return any(cls in _BY_CLASS for cls in type(error).__mro__)


def table_text() -> str:
    """The table, one line a status, for ``--help``."""
    return "\n".join(f"{row.status:>5}  {row.meaning}" for row in TABLE)
