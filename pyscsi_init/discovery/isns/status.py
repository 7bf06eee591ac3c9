# SPDX-License-Identifier: Apache-2.0
"""Status codes of iSNS responses (RFC 4171 5.4), as errors that say what to do."""

from __future__ import annotations

from ...errors import IsnsBusy, IsnsRejected, IsnsSourceRefused, IsnsUnsupported

SUCCESSFUL = 0
MESSAGE_FORMAT_ERROR = 2
NO_SUCH_ENTRY = 9
INTERNAL_ERROR = 11
BUSY = 12
MESSAGE_NOT_SUPPORTED = 15

_SOURCE = "register the initiator name at the server, or use a name that is registered"
_DOMAIN = "the administrator of the server has to allow this initiator name"
_SERVER = "look at the server's log"
_FORMAT = "the server reads the message in another way than we write it: please report it"

STATUSES: dict[int, tuple[type[IsnsRejected], str, str]] = {
    1: (IsnsRejected, "Unknown Error", _SERVER),
    2: (IsnsRejected, "Message Format Error", _FORMAT),
    3: (
        IsnsRejected,
        "Invalid Registration",
        "the name or the address may be registered by somebody else: use another initiator name",
    ),
    5: (IsnsRejected, "Invalid Query", _FORMAT),
    6: (IsnsSourceRefused, "Source Unknown", _SOURCE),
    7: (IsnsSourceRefused, "Source Absent", _SOURCE),
    8: (IsnsSourceRefused, "Source Unauthorized", _DOMAIN),
    9: (IsnsRejected, "No Such Entry", "what was asked for is not registered there"),
    10: (IsnsUnsupported, "Version Not Supported", "the server does not know iSNSP version 1"),
    11: (IsnsRejected, "Internal Error", _SERVER),
    12: (IsnsBusy, "Busy", "try again later"),
    13: (IsnsUnsupported, "Option Not Understood", "this server cannot be used for it"),
    14: (IsnsRejected, "Invalid Update", "deregister what is there first"),
    15: (IsnsUnsupported, "Message Not Supported", "this server cannot be used for it"),
    16: (IsnsRejected, "SCN Event Rejected", _SERVER),
    17: (
        IsnsRejected,
        "SCN Registration Rejected",
        "the server sends no notifications to this node: poll it",
    ),
    18: (IsnsUnsupported, "Attribute Not Implemented", "this server cannot be used for it"),
    21: (IsnsUnsupported, "ESI Not Available", "register without entity status inquiries"),
    22: (IsnsRejected, "Invalid Deregistration", "the object belongs to another entity"),
    23: (
        IsnsUnsupported,
        "Registration Feature Not Supported",
        "this server cannot be used for it",
    ),
}
"""Status code -> class, the standard's name, what to do; others are IsnsRejected."""


def error_of(status: int, what: str) -> IsnsRejected:
    """The error for a status other than Successful; ``what`` was asked for."""
    kind, name, remedy = STATUSES.get(status, (IsnsRejected, "reserved", _SERVER))
    return kind(
        f"the iSNS server refused {what}: status {status} ({name}); {remedy}", status=status
    )
