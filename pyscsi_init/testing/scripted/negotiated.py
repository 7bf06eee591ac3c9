# SPDX-License-Identifier: Apache-2.0
"""What two sides agreed on, read from what both of them said (RFC 7143 section 13).

A second opinion beside the initiator's own negotiation: for each key the function that the standard
names, and its default where one side was silent.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ProtocolError
from ...login.text import RESERVED_ANSWERS, Pair, parse_boolean, parse_number

LOGIN_DATA_SEGMENT_LENGTH = 8192
"""RFC 7143 13.12: in force until full feature phase, whatever is declared."""


@dataclass(slots=True)
class Negotiated:
    """The operational parameters that decide what an initiator may send."""

    discovery: bool = False
    header_digest: bool = False
    data_digest: bool = False
    initial_r2t: bool = True
    immediate_data: bool = True
    target_max_recv_data_segment_length: int = LOGIN_DATA_SEGMENT_LENGTH
    initiator_max_recv_data_segment_length: int = LOGIN_DATA_SEGMENT_LENGTH
    max_burst_length: int = 262144
    first_burst_length: int = 65536
    max_outstanding_r2t: int = 1
    error_recovery_level: int = 0
    protocol_level: int = 1
    fast_abort: bool = False


def negotiated(initiator: list[Pair], target: list[Pair]) -> Negotiated:
    """The result of a login phase in which both sides said these pairs, in this order."""
    ours = {key: value for key, value in initiator if value not in RESERVED_ANSWERS}
    theirs = {key: value for key, value in target if value not in RESERVED_ANSWERS}

    def digest(key: str) -> bool:
        # An answer is one value, so a list is the offer; of two single values both are the same.
        values = [side[key] for side in (ours, theirs) if key in side]
        return (
            len(values) == 2
            and all("CRC32C" in value.split(",") for value in values)
            and ("CRC32C" in values)
        )

    def smaller(key: str, default: int) -> int:
        return (
            min(_number(ours[key], default), _number(theirs[key], default))
            if (key in ours and key in theirs)
            else default
        )

    def boolean(key: str, default: bool) -> list[bool]:
        said = [_boolean(side[key]) for side in (ours, theirs) if key in side]
        return said if len(said) == 2 else [default]

    burst = smaller("MaxBurstLength", 262144)
    immediate = boolean("ImmediateData", True)
    if "No" in (ours.get("ImmediateData"), theirs.get("ImmediateData")):
        immediate = [False]  # RFC 7143 6.2.2: a No needs no answer
    return Negotiated(
        discovery=ours.get("SessionType") == "Discovery",
        header_digest=digest("HeaderDigest"),
        data_digest=digest("DataDigest"),
        initial_r2t=any(boolean("InitialR2T", True)),
        immediate_data=all(immediate),
        target_max_recv_data_segment_length=_number(
            theirs.get("MaxRecvDataSegmentLength", ""), LOGIN_DATA_SEGMENT_LENGTH
        ),
        initiator_max_recv_data_segment_length=_number(
            ours.get("MaxRecvDataSegmentLength", ""), LOGIN_DATA_SEGMENT_LENGTH
        ),
        max_burst_length=burst,
        first_burst_length=min(smaller("FirstBurstLength", 65536), burst),
        max_outstanding_r2t=smaller("MaxOutstandingR2T", 1),
        error_recovery_level=smaller("ErrorRecoveryLevel", 0),
        protocol_level=smaller("iSCSIProtocolLevel", 1),
        fast_abort=theirs.get("TaskReporting") == "FastAbort",
    )


def _number(text: str, default: int) -> int:
    try:
        return parse_number(text)
    except ProtocolError:
        return default


def _boolean(text: str) -> bool:
    try:
        return parse_boolean(text)
    except ProtocolError:
        return False
