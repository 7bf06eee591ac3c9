# SPDX-License-Identifier: Apache-2.0
"""Login Status-Class and Status-Detail as typed errors with a cause and a remedy (RFC 7143
11.13.5).

One table row per code: what the standard says, and what it most often means in the field. The
same code can mean two things, depending on whether we authenticated; the row then has a text for
each. A code without a row still gets the class of its Status-Class. It does not know stages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    LoginError,
    LoginRedirected,
    LoginRejected,
    ProtocolError,
    TargetNotFound,
    TargetRemoved,
    TargetUnavailable,
)
from ..pdu import StatusClass

MOVED_PERMANENTLY = 2

LOGIN_STATUS_CLASSES: dict[tuple[int, int], Callable[..., LoginRejected]] = {
    (0x02, 0x01): AuthenticationFailed,
    (0x02, 0x02): AuthorizationFailed,
    (0x02, 0x03): TargetNotFound,
    (0x02, 0x04): TargetRemoved,
}
"""Status-Class and Status-Detail -> class; class 3 is TargetUnavailable, all else LoginRejected."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a code means, and what to try."""

    meaning: str
    remedy: str


_WANTS_CHAP = "the target wants CHAP: give --chap-user and a secret (a Chap)"
_NOT_ACCEPTED = (
    "our own authentication failed: the user name or the secret is wrong, "
    "or the target has another access list for this initiator name"
)
_NO_MUTUAL = ", or the target has no secret of its own for mutual CHAP"
_NO_ALGORITHM = (
    "the target ended CHAP before our response: it knows none of the algorithms that we offered, "
    "or stumbles over the list (old targets take 5 alone), or has no CHAP for this initiator name"
)
_ALGORITHM_7 = (
    "; it also chose CHAP algorithm 7, which some targets take for SHA1: offer algorithm 5 alone"
)
_DEFECT = "this is a defect of one of the two sides: keep a trace of the login"

STATUS: dict[tuple[int, int], Status] = {
    (0x02, 0x00): Status(
        "initiator error", "the target's log says what it did not like in the login request"
    ),
    (0x02, 0x01): Status("authentication failure", _WANTS_CHAP),
    (0x02, 0x02): Status(
        "authorization failure",
        "add the initiator name to the target's access list, or use the name that is in it",
    ),
    (0x02, 0x03): Status(
        "target not found",
        "no such target behind this portal: `pyscsi-init discover` lists them",
    ),
    (0x02, 0x04): Status(
        "target removed", "it was taken away and left no address: ask who runs the storage"
    ),
    (0x02, 0x05): Status("unsupported version", "the target speaks no iSCSI version 0"),
    (0x02, 0x06): Status(
        "too many connections",
        "close other sessions of this initiator, or raise the target's limit",
    ),
    (0x02, 0x07): Status("missing parameter", _DEFECT),
    (0x02, 0x08): Status(
        "cannot include in session", "this portal cannot take a further connection"
    ),
    (0x02, 0x09): Status(
        "session type not supported",
        "the target has no discovery (or no normal) session for this initiator",
    ),
    (0x02, 0x0A): Status("session does not exist", "the old session is gone: log in anew"),
    (0x02, 0x0B): Status("invalid during login", _DEFECT),
    (0x03, 0x00): Status("target error", "it has a hardware or software error: see its log"),
    (0x03, 0x01): Status(
        "service unavailable", "the target is not in operation just now: it may be tried again"
    ),
    (0x03, 0x02): Status(
        "out of resources", "the target has no room for this session: it may be tried again"
    ),
}
"""(Status-Class, Status-Detail) -> meaning and remedy."""

_CLASS_MEANING: dict[int, Status] = {
    StatusClass.INITIATOR_ERROR: Status("initiator error", "see the target's log"),
    StatusClass.TARGET_ERROR: Status("target error", "it may be tried again later"),
}


def rejection(
    status_class: int,
    status_detail: int,
    *,
    target: str,
    chap_user: str | None = None,
    chap_algorithm: int | None = None,
    mutual: bool = False,
    response_sent: bool = False,
) -> LoginRejected:
    """The error for a login response of class 2 or 3, or of a class that does not exist.

    ``chap_user`` is None without CHAP; ``response_sent`` is True once CHAP_R went out.
    """
    code = (status_class, status_detail)
    row = STATUS.get(code) or _CLASS_MEANING.get(
        status_class, Status("unknown status", "see the target's log")
    )
    remedy = row.remedy
    if chap_user is not None and code in ((0x02, 0x00), (0x02, 0x01)):
        if not response_sent:
            remedy = _NO_ALGORITHM
        elif code == (0x02, 0x01):
            remedy = f"{_NOT_ACCEPTED}{_NO_MUTUAL if mutual else ''} (CHAP user {chap_user!r})"
        if response_sent and chap_algorithm == 7:
            remedy += _ALGORITHM_7
    text = (
        f"{target} rejected the login with status {status_class:02x}{status_detail:02x}h "
        f"({row.meaning}): {remedy}"
    )
    make = LOGIN_STATUS_CLASSES.get(code)
    if make is None:
        make = TargetUnavailable if status_class == StatusClass.TARGET_ERROR else LoginRejected
    return make(text, status_class=status_class, status_detail=status_detail)


def redirection(
    status_detail: int, *, target: str, addresses: tuple[str, ...]
) -> LoginError | ProtocolError:
    """The error for a login response of class 1: where the target went, and whether for good."""
    if not addresses:
        # RFC 7143 11.13.5: class 1 "MUST return one or more" TargetAddress.
        return ProtocolError(
            f"{target} redirected the login (status 01{status_detail:02x}h) "
            "without saying where to (RFC 7143 11.13.5)"
        )
    # Only 0102 is for good; targets exist that send 0100.
    permanent = status_detail == MOVED_PERMANENTLY
    return LoginRedirected(
        f"{target} moved {'permanently' if permanent else 'temporarily'} to "
        f"{', '.join(ascii(address)[1:-1] for address in addresses)} "
        f"(status 01{status_detail:02x}h)",
        addresses=addresses,
        permanent=permanent,
    )
