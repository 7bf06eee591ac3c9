# SPDX-License-Identifier: Apache-2.0
"""The target's half of the negotiation of operational keys (RFC 7143 6.2 and 13).

Each key has one row: how an offer and the own value make a result, and the default that holds when
nobody speaks. Written without the initiator's registry, so that a wrong row there does not find the
same wrong row here. Which stage the login is in, and CHAP, belong to login.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ProtocolError
from ..login.text import IRRELEVANT, NOT_UNDERSTOOD, REJECT, parse_boolean, parse_list, parse_number
from .settings import TargetSettings

DEFAULT_MAX_RECV_DATA_SEGMENT_LENGTH = 8192


@dataclass(slots=True)
class Negotiated:
    """What holds in a session; at first the defaults of RFC 7143 13."""

    header_digest: bool = False
    data_digest: bool = False
    initial_r2t: bool = True
    immediate_data: bool = True
    max_burst_length: int = 262144
    first_burst_length: int = 65536
    max_outstanding_r2t: int = 1
    max_connections: int = 1
    default_time2wait: int = 2
    default_time2retain: int = 20
    error_recovery_level: int = 0
    data_pdu_in_order: bool = True
    data_sequence_in_order: bool = True
    iscsi_protocol_level: int = 1
    initiator_max_recv_data_segment_length: int = DEFAULT_MAX_RECV_DATA_SEGMENT_LENGTH
    max_recv_data_segment_length: int = DEFAULT_MAX_RECV_DATA_SEGMENT_LENGTH
    """Ours."""


@dataclass(frozen=True, slots=True)
class Row:
    """One negotiated key."""

    field: str
    combine: Callable[[int, int], int]
    low: int = 0
    high: int = 1
    boolean: bool = False


ROWS: dict[str, Row] = {
    "MaxConnections": Row("max_connections", min, 1, 65535),
    "InitialR2T": Row("initial_r2t", lambda a, b: a | b, boolean=True),
    "ImmediateData": Row("immediate_data", lambda a, b: a & b, boolean=True),
    "MaxBurstLength": Row("max_burst_length", min, 512, 2**24 - 1),
    "FirstBurstLength": Row("first_burst_length", min, 512, 2**24 - 1),
    "MaxOutstandingR2T": Row("max_outstanding_r2t", min, 1, 65535),
    "DefaultTime2Wait": Row("default_time2wait", max, 0, 3600),
    "DefaultTime2Retain": Row("default_time2retain", min, 0, 3600),
    "ErrorRecoveryLevel": Row("error_recovery_level", min, 0, 2),
    "DataPDUInOrder": Row("data_pdu_in_order", lambda a, b: a | b, boolean=True),
    "DataSequenceInOrder": Row("data_sequence_in_order", lambda a, b: a | b, boolean=True),
    "iSCSIProtocolLevel": Row("iscsi_protocol_level", min, 0, 31),
}

DIGESTS = {"HeaderDigest": "header_digest", "DataDigest": "data_digest"}

IRRELEVANT_IN_DISCOVERY = frozenset(
    (
        "MaxConnections",
        "InitialR2T",
        "ImmediateData",
        "MaxBurstLength",
        "FirstBurstLength",
        "MaxOutstandingR2T",
        "DataPDUInOrder",
        "DataSequenceInOrder",
        "TaskReporting",
    )
)

FIXED_ANSWERS = {
    "IFMarker": "No",
    "OFMarker": "No",
    "IFMarkInt": REJECT,
    "OFMarkInt": REJECT,
}
"""RFC 7143 13.25: markers are obsolete."""

DECLARATIONS = frozenset(("InitiatorAlias", "InitiatorName", "TargetName", "SessionType"))


class Negotiation:
    """The operational keys of one login."""

    def __init__(self, settings: TargetSettings, *, discovery: bool) -> None:
        self._settings = settings
        self._discovery = discovery
        self.result = Negotiated()
        self.leading = True
        """The first connection of its session."""
        self._seen: set[str] = set()
        self._offered: set[str] = set()
        self._declared = False

    @property
    def waits_for_answers(self) -> bool:
        """True while an offer of ours has not been answered."""
        return bool(self._offered - self._seen)

    def receive(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Take keys of the initiator and return the answers.

        Raises:
            ProtocolError: a value that is none, or a key twice.
        """
        answers: list[tuple[str, str]] = []
        for key, value in pairs:
            if key in self._seen:
                # RFC 7143 6.2: a key may be negotiated once in a login
                raise ProtocolError(f"{key} is negotiated twice")
            self._seen.add(key)
            answer = self._answer(key, value)
            if key in self._offered:
                continue
            literal = self._settings.answers.get(key, answer)
            if literal is not None:
                answers.append((key, literal))
        return answers

    def offers(self) -> list[tuple[str, str]]:
        """What the target says on its own: its declarations, and keys whose default is too much."""
        if self._declared:
            return []
        self._declared = True
        settings, pairs = self._settings, list(self._settings.extra_keys)
        if settings.max_recv_data_segment_length is not None:
            length = settings.max_recv_data_segment_length
            self.result.max_recv_data_segment_length = length
            pairs.append(("MaxRecvDataSegmentLength", str(length)))
        if self._discovery:
            return pairs
        defaults = Negotiated()
        # RFC 7143 13: these are keys of the leading connection alone.
        for key, row in ROWS.items() if self.leading else ():
            own, default = int(getattr(settings, row.field)), int(getattr(defaults, row.field))
            if key not in self._seen and row.combine(own, default) != default:
                self._offered.add(key)
                pairs.append((key, self._text(row, own)))
        for key, field in DIGESTS.items():
            own_list = getattr(settings, field)
            if key not in self._seen and "None" not in own_list:
                self._offered.add(key)
                pairs.append((key, ",".join(own_list)))
        return pairs

    @staticmethod
    def _text(row: Row, value: int) -> str:
        if row.boolean:
            return "Yes" if value else "No"
        return str(int(value))

    def _answer(self, key: str, value: str) -> str | None:
        if value == NOT_UNDERSTOOD and key not in ROWS:
            return None  # an answer to one of our extra keys
        if self._discovery and key in IRRELEVANT_IN_DISCOVERY:
            return IRRELEVANT
        if key in DIGESTS:
            return self._digest(key, value)
        if key in ROWS:
            return self._number(key, ROWS[key], value)
        if key == "MaxRecvDataSegmentLength":
            length = parse_number(value)
            if not 512 <= length < 2**24:
                raise ProtocolError(f"MaxRecvDataSegmentLength {length} is out of range")
            self.result.initiator_max_recv_data_segment_length = length
            return None
        if key in DECLARATIONS:
            return None
        if key == "TaskReporting":
            return "RFC3720" if "RFC3720" in parse_list(value) else REJECT
        return FIXED_ANSWERS.get(key, NOT_UNDERSTOOD)

    def _digest(self, key: str, value: str) -> str:
        own = getattr(self._settings, DIGESTS[key])
        for choice in parse_list(value):
            if choice in own:
                setattr(self.result, DIGESTS[key], choice == "CRC32C")
                return choice
        return REJECT

    def _number(self, key: str, row: Row, value: str) -> str:
        offered = int(parse_boolean(value)) if row.boolean else parse_number(value)
        if not row.low <= offered <= row.high:
            return REJECT
        result = row.combine(offered, int(getattr(self._settings, row.field)))
        if key == "ErrorRecoveryLevel" and self._discovery:
            result = 0
        setattr(self.result, row.field, bool(result) if row.boolean else result)
        return self._text(row, result)
