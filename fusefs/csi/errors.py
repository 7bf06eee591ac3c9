# SPDX-License-Identifier: Apache-2.0
"""Which gRPC status an error becomes: one table, read from the top.

The codes are those that the CSI specification gives to each case ("Error Scheme" and the table of
each call); a caller acts on them: it repeats what is ABORTED or UNAVAILABLE, gives up on
INVALID_ARGUMENT, and looks at the volume's capabilities after FAILED_PRECONDITION. The text is the
error's own sentence: value, reason, remedy. It never holds a secret, because no error does.
"""

from __future__ import annotations

import errno

import grpc

from fusefs import errors as volume
from fusefs import volume_errors
from fusefs.volume import provision
from pyscsi_init import errors as iscsi

Code = grpc.StatusCode

MAX_TEXT = 4000
"""A status travels in a header, and headers of more than 8 KiB are refused by default. So many
bytes of it there are: three for each byte that is no plain letter."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

CODES: tuple[tuple[Code, tuple[type[Exception], ...]], ...] = (
    (Code.ABORTED, (volume.OperationInProgress,)),
    (Code.ALREADY_EXISTS, (volume.NameInUse, provision.ClaimConflict)),
    (Code.NOT_FOUND, (volume.NoSuchVolume, provision.NoSuchClaim)),
    (Code.OUT_OF_RANGE, (provision.SizeNotPossible,)),
    (Code.RESOURCE_EXHAUSTED, (provision.NoSpaceLeft,)),
    # What was asked for can never work: a value, a name, a URL, a secret.
    (Code.INVALID_ARGUMENT, (volume.InvalidSpec, iscsi.ConfigurationError)),
    # The target does not have it: the volume does not exist.
    (Code.NOT_FOUND, (iscsi.TargetNotFound, iscsi.TargetRemoved, iscsi.LunNotFound)),
    (Code.UNAUTHENTICATED, (iscsi.AuthenticationFailed, iscsi.TargetAuthenticationFailed)),
    (Code.PERMISSION_DENIED, (iscsi.AuthorizationFailed,)),
    (
        Code.UNAVAILABLE,
        (
            iscsi.ConnectError,
            iscsi.TargetUnavailable,
            iscsi.LoginTimeout,
            iscsi.ConnectionLost,
            volume.WorkerFailed,
        ),
    ),
    (Code.DEADLINE_EXCEEDED, (volume.Timeout, iscsi.TaskTimeout)),
    # Somebody must change something at the volume, the target or this node first.
    (
        Code.FAILED_PRECONDITION,
        (
            volume.AlreadyAttached,
            volume.ContentError,
            volume.DeviceBusy,
            volume.NotAllowed,
            volume_errors.PlaceTaken,
            volume_errors.VolumeInUse,
            provision.ClaimInUse,
            provision.LunLost,
            iscsi.ReservationConflict,
            iscsi.HeldByAnother,
            iscsi.Unsupported,
            iscsi.ReadOnlyDevice,
            iscsi.NotABlockDevice,
            iscsi.IdentityMismatch,
            iscsi.CapacityShrunk,
        ),
    ),
)


class Refused(Exception):
    """A call that CSI itself answers with ``code``; no layer below was asked."""

    def __init__(self, code: Code, text: str, *, remedy: str = "") -> None:
        self.code = code
        super().__init__(f"{text}; {remedy}" if remedy else text)


def missing(field: str, *, remedy: str = "") -> Refused:
    """The refusal of a call without a field that it must have."""
    return Refused(Code.INVALID_ARGUMENT, f"{field} is missing", remedy=remedy)


def code_of(error: BaseException) -> Code:
    """The status code of an error; INTERNAL for whatever the table does not know."""
    if isinstance(error, Refused):
        return error.code
    for code, classes in CODES:
        if isinstance(error, classes):
            return code
    return Code.RESOURCE_EXHAUSTED if _is_no_room(error) else Code.INTERNAL


def text_of(error: BaseException) -> str:
    """One line for a person, short enough for a header."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and _is_no_room(error):
        text = f"{error.filename or 'a file of ours'}: {error.strerror}; make room there"
    line = " | ".join(part.strip() for part in text.splitlines() if part.strip())
    # Names of files may hold bytes that are no text.
    line = line.encode("utf-8", "backslashreplace").decode("utf-8")
    room = MAX_TEXT
    for index, letter in enumerate(line):
        room -= 1 if " " <= letter <= "~" and letter != "%" else 3 * len(letter.encode())
        if room < 0:
            return line[:index] + "..."
    return line


def is_expected(error: BaseException) -> bool:
    """Whether it is one of the trees' errors, or a full disk; anything else is a fault of ours."""
    known = (Refused, volume.VolumeError, iscsi.IscsiError)
    return isinstance(error, known) or _is_no_room(error)


def _is_no_room(error: BaseException) -> bool:
    return isinstance(error, (OSError, volume.CallFailed)) and error.errno in NO_ROOM
