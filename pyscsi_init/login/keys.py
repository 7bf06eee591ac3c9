# SPDX-License-Identifier: Apache-2.0
"""The key registry: one row for every text key of RFC 7143 sections 12 and 13, and of RFC 7144.

A row says what a key's value looks like, how two offers become one result, the default, the range,
who may send it and when, whether a discovery session has any use for it, and the clause. Everything
else in the login phase asks the table: there is no key with code of its own, apart from CHAP's.

The result functions judge an answer to our offer (:func:`check_answer`) and make the answer to an
offer of the peer (:func:`answer_for`); both are the same truth table seen from its two sides. They
do not know what was offered before; negotiation.py remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from ..errors import ProtocolError
from .text import format_boolean, parse_boolean, parse_list, parse_number, shorten


class Kind(Enum):
    """What a value looks like (RFC 7143 6.1)."""

    BOOLEAN = "boolean-value"
    NUMBER = "numerical-value"
    LIST = "list-of-values"
    TEXT = "text"


class Result(Enum):
    """How the value in force is found (RFC 7143 13)."""

    AND = "AND"
    OR = "OR"
    MINIMUM = "Minimum"
    MAXIMUM = "Maximum"
    FIRST_MATCH = "first acceptable of the list"
    DECLARATIVE = "declared, not answered"
    OBSOLETE = "answered Reject"


class Use(Enum):
    """When a key may be sent (RFC 7143 13)."""

    INITIALIZE_ONLY = "IO"
    LEADING_ONLY = "LO"
    ALL = "ALL"
    FULL_FEATURE_PHASE_ONLY = "FFPO"
    SECURITY = "security negotiation"


class Scope(Enum):
    """How far a value reaches (RFC 7143 13)."""

    SESSION = "SW"
    CONNECTION = "CO"


class Sender(Enum):
    """Who may propose or declare a key."""

    INITIATOR = "initiator"
    TARGET = "target"
    BOTH = "initiator and target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One row of the registry."""

    name: str
    kind: Kind
    result: Result
    use: Use
    clause: str
    """Section of RFC 7143, unless it says otherwise."""
    default: str | None = None
    """The value in force without any exchange; None where there is none."""
    low: int = 0
    high: int = 2**64 - 1
    scope: Scope = Scope.SESSION
    sender: Sender = Sender.BOTH
    any_stage: bool = False
    """May also stand in the security negotiation."""
    irrelevant_in_discovery: bool = False
    repeatable: bool = False
    """May be declared more than once in a login phase."""
    not_understood_tolerated: bool = False
    """Targets written to RFC 3720 do not know this key and may say so."""

    @property
    def negotiated(self) -> bool:
        """True for a key that must be answered."""
        return self.result is not Result.DECLARATIVE

    def parse(self, value: str) -> bool | int | str | tuple[str, ...]:
        """The value as a Python object, checked against the row's range.

        Raises:
            ProtocolError: not of this kind, or out of range.
        """
        if self.kind is Kind.TEXT:
            return value
        if self.kind is Kind.NUMBER:
            return self.number(value)
        try:
            return parse_boolean(value) if self.kind is Kind.BOOLEAN else parse_list(value)
        except ProtocolError as error:
            raise ProtocolError(f"{self.name}: {error}") from None

    def number(self, value: str) -> int:
        """:meth:`parse` for a key whose value is a number."""
        try:
            number = parse_number(value)
        except ProtocolError as error:
            raise ProtocolError(f"{self.name}: {error}") from None
        if not self.low <= number <= self.high:
            raise ProtocolError(
                f"{self.name}={number} is not in {self.low}..{self.high} (RFC 7143 {self.clause})"
            )
        return number


def _rows() -> tuple[Key, ...]:
    largest = 2**24 - 1
    boolean, number, words, text = Kind.BOOLEAN, Kind.NUMBER, Kind.LIST, Kind.TEXT
    declared = Result.DECLARATIVE

    def leading(
        name: str,
        clause: str,
        kind: Kind,
        result: Result,
        default: str,
        low: int = 0,
        high: int = 0,
    ) -> Key:
        return Key(
            name=name,
            kind=kind,
            result=result,
            use=Use.LEADING_ONLY,
            clause=clause,
            default=default,
            low=low,
            high=high,
            # Only these three operational keys keep a meaning without SCSI (RFC 7143 13.15, 13.16,
            # 13.20 have no "Irrelevant when").
            irrelevant_in_discovery=name
            not in ("DefaultTime2Wait", "DefaultTime2Retain", "ErrorRecoveryLevel"),
            not_understood_tolerated=name in ("TaskReporting", "iSCSIProtocolLevel"),
        )

    def digest(name: str) -> Key:
        return Key(
            name=name,
            kind=words,
            result=Result.FIRST_MATCH,
            use=Use.INITIALIZE_ONLY,
            clause="13.1",
            default="None",
            scope=Scope.CONNECTION,
        )

    def name_key(name: str, clause: str, use: Use, sender: Sender, repeatable: bool = False) -> Key:
        return Key(
            name=name,
            kind=text,
            result=declared,
            use=use,
            clause=clause,
            sender=sender,
            any_stage=True,
            repeatable=repeatable,
        )

    def security(name: str, clause: str, kind: Kind = text) -> Key:
        return Key(
            name=name,
            kind=kind,
            result=Result.FIRST_MATCH if name == "AuthMethod" else declared,
            use=Use.SECURITY,
            clause=clause,
            scope=Scope.CONNECTION,
            any_stage=True,
        )

    def obsolete(name: str) -> Key:
        return Key(
            name=name,
            kind=text,
            result=Result.OBSOLETE,
            use=Use.INITIALIZE_ONLY,
            clause="13.25",
            scope=Scope.CONNECTION,
            not_understood_tolerated=True,
        )

    return (
        security("AuthMethod", "12.1", words),
        *(security(name, "12.1.1") for name in ("KRB_AP_REQ", "KRB_AP_REP")),
        *(
            security(name, "12.1.2")
            for name in (
                *("SRP_U", "TargetAuth", "SRP_GROUP", "SRP_s"),
                *("SRP_A", "SRP_B", "SRP_M", "SRP_HM"),
            )
        ),
        *(security(name, "12.1.3") for name in ("CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R")),
        digest("HeaderDigest"),
        digest("DataDigest"),
        leading("MaxConnections", "13.2", number, Result.MINIMUM, "1", 1, 65535),
        Key(
            name="SendTargets",
            kind=text,
            result=declared,
            use=Use.FULL_FEATURE_PHASE_ONLY,
            clause="13.3",
            sender=Sender.INITIATOR,
        ),
        # The target sends TargetName too, but only in the answer to SendTargets (RFC 7143 13.4).
        name_key("TargetName", "13.4", Use.ALL, Sender.INITIATOR, repeatable=True),
        name_key("InitiatorName", "13.5", Use.INITIALIZE_ONLY, Sender.INITIATOR),
        name_key("TargetAlias", "13.6", Use.ALL, Sender.TARGET),
        name_key("InitiatorAlias", "13.7", Use.ALL, Sender.INITIATOR),
        name_key("TargetAddress", "13.8", Use.ALL, Sender.TARGET, repeatable=True),
        Key(
            name="TargetPortalGroupTag",
            kind=number,
            result=declared,
            use=Use.INITIALIZE_ONLY,
            clause="13.9",
            high=65535,
            sender=Sender.TARGET,
            any_stage=True,
        ),
        leading("InitialR2T", "13.10", boolean, Result.OR, "Yes"),
        leading("ImmediateData", "13.11", boolean, Result.AND, "Yes"),
        Key(
            name="MaxRecvDataSegmentLength",
            kind=number,
            result=declared,
            use=Use.ALL,
            clause="13.12",
            default="8192",
            low=512,
            high=largest,
            scope=Scope.CONNECTION,
        ),
        leading("MaxBurstLength", "13.13", number, Result.MINIMUM, "262144", 512, largest),
        leading("FirstBurstLength", "13.14", number, Result.MINIMUM, "65536", 512, largest),
        leading("DefaultTime2Wait", "13.15", number, Result.MAXIMUM, "2", 0, 3600),
        leading("DefaultTime2Retain", "13.16", number, Result.MINIMUM, "20", 0, 3600),
        leading("MaxOutstandingR2T", "13.17", number, Result.MINIMUM, "1", 1, 65535),
        leading("DataPDUInOrder", "13.18", boolean, Result.OR, "Yes"),
        leading("DataSequenceInOrder", "13.19", boolean, Result.OR, "Yes"),
        leading("ErrorRecoveryLevel", "13.20", number, Result.MINIMUM, "0", 0, 2),
        name_key("SessionType", "13.21", Use.LEADING_ONLY, Sender.INITIATOR),
        leading("TaskReporting", "13.23", words, Result.FIRST_MATCH, "RFC3720"),
        # RFC 7144 7.1.1 gives the range and the function.
        leading("iSCSIProtocolLevel", "13.24", number, Result.MINIMUM, "1", 0, 31),
        *(obsolete(name) for name in ("IFMarker", "OFMarker", "OFMarkInt", "IFMarkInt")),
        Key(
            name="X#NodeArchitecture",
            kind=text,
            result=declared,
            use=Use.LEADING_ONLY,
            clause="13.26",
            not_understood_tolerated=True,
        ),
    )


KEYS: dict[str, Key] = {row.name: row for row in _rows()}
"""Key name -> row. A name without a row is answered NotUnderstood."""


def _answer_and(offered: str, own: str) -> str:
    return format_boolean(parse_boolean(offered) and parse_boolean(own))


def _answer_or(offered: str, own: str) -> str:
    return format_boolean(parse_boolean(offered) or parse_boolean(own))


def _answer_minimum(offered: str, own: str) -> str:
    return str(min(parse_number(offered), parse_number(own)))


def _answer_maximum(offered: str, own: str) -> str:
    return str(max(parse_number(offered), parse_number(own)))


def _answer_first_match(offered: str, own: str) -> str:
    acceptable = parse_list(own)
    # RFC 7143 6.2.1: the first of the originator's list that we take; "None" only if it is in it.
    return next((value for value in parse_list(offered) if value in acceptable), "Reject")


_ANSWERS: dict[Result, Callable[[str, str], str]] = {
    Result.AND: _answer_and,
    Result.OR: _answer_or,
    Result.MINIMUM: _answer_minimum,
    Result.MAXIMUM: _answer_maximum,
    Result.FIRST_MATCH: _answer_first_match,
}


def answer_for(key: Key, offered: str, own: str) -> str:
    """Our answer to the peer's offer, when ``own`` is what we would have offered.

    Raises:
        ProtocolError: the offer is not of the key's kind, or out of its range.
    """
    if key.result is Result.OBSOLETE:
        return "Reject"  # RFC 7143 13.25: never NotUnderstood
    key.parse(offered)
    return _ANSWERS[key.result](offered, own)


def check_answer(key: Key, offered: str, answer: str) -> None:
    """Hold an answer to our offer against the result function (RFC 7143 6.2.1, 6.2.2).

    Raises:
        ProtocolError: not of the key's kind, out of range, or not a possible result.
    """
    if key.result is Result.OBSOLETE:
        return
    value = key.parse(answer)
    if key.result is Result.FIRST_MATCH:
        possible = answer in parse_list(offered)
    else:
        # An answer is a possible result exactly if the function gives it back again.
        canonical = format_boolean(value) if isinstance(value, bool) else str(value)
        possible = _ANSWERS[key.result](offered, canonical) == canonical
    if not possible:
        # The usual case: a digest that only one side allows, and a target that says None anyway.
        remedy = "; offer it too, or change what the target allows" if key.kind is Kind.LIST else ""
        raise ProtocolError(
            f"{key.name}={shorten(answer)} is no possible answer to our {shorten(offered)} "
            f"(RFC 7143 {key.clause}: {key.result.value}){remedy}"
        )


def canonical_value(key: Key, value: str) -> str:
    """``value`` in one spelling: numbers in decimal, the rest as it is."""
    return str(key.number(value)) if key.kind is Kind.NUMBER else value


def check_full_feature_keys(pairs: Sequence[tuple[str, str]]) -> None:
    """Hold the pairs of a Text Response against what full feature phase allows (RFC 7143 13).

    Raises:
        ProtocolError: a key of the login phase, a value out of range, or a key twice.
    """
    seen: set[str] = set()
    for name, value in pairs:
        row = KEYS.get(name)
        if row is None:
            continue
        if row.use not in (Use.ALL, Use.FULL_FEATURE_PHASE_ONLY):
            raise ProtocolError(
                f"{name} is not allowed in full feature phase (RFC 7143 {row.clause})"
            )
        # TargetAlias may belong to each record of a SendTargets answer.
        if row.kind is Kind.NUMBER and name in seen:
            raise ProtocolError(f"{name} was declared twice in one negotiation (RFC 7143 6.4)")
        seen.add(name)
        row.parse(value)
