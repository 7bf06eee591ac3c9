# SPDX-License-Identifier: Apache-2.0
"""From settings to offers, and from a finished negotiation to the parameters of a session.

:func:`own_values` says what we offer for each key, :func:`operational_keys` which of them go out
in a kind of login, and :func:`negotiated_parameters` reads the outcome into a frozen
:class:`Parameters`, after the rules that bind keys to each other (RFC 7143 13.14, 13.17) and the
caller's policy (digests). It knows neither PDUs nor stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import NegotiationFailed
from ..settings import Settings
from .negotiation import Negotiation
from .text import format_boolean, format_list

DISCOVERY_MAX_RECV_DATA_SEGMENT_LENGTH = 32768
"""The least we declare in a discovery session: targets exist that answer wrongly, or crash, when
the text of SendTargets does not fit in one PDU."""

_CONNECTION_KEYS = ("HeaderDigest", "DataDigest", "MaxRecvDataSegmentLength")
_DISCOVERY_KEYS = (
    *_CONNECTION_KEYS,
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "ErrorRecoveryLevel",
)
_NORMAL_KEYS = (
    *_CONNECTION_KEYS,
    "MaxConnections",
    "InitialR2T",
    "ImmediateData",
    "MaxBurstLength",
    "FirstBurstLength",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "MaxOutstandingR2T",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "ErrorRecoveryLevel",
    "TaskReporting",
    "iSCSIProtocolLevel",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What is in force on a connection and its session; the defaults are those of RFC 7143 13."""

    header_digest: bool = False
    """True: CRC32C."""
    data_digest: bool = False
    max_connections: int = 1
    initial_r2t: bool = True
    immediate_data: bool = True
    max_recv_data_segment_length: int = 8192
    """Ours: what the target may send in one PDU."""
    target_max_recv_data_segment_length: int = 8192
    """The target's: what we may send in one PDU."""
    max_burst_length: int = 262144
    first_burst_length: int = 65536
    default_time2wait: int = 2
    default_time2retain: int = 20
    max_outstanding_r2t: int = 1
    data_pdu_in_order: bool = True
    data_sequence_in_order: bool = True
    error_recovery_level: int = 0
    task_reporting: str = "RFC3720"
    iscsi_protocol_level: int = 1
    target_alias: str = ""
    target_portal_group_tag: int | None = None
    """None: the target did not say."""

    def as_keys(self) -> dict[str, str]:
        """The values under their RFC names, for people and for traces.

        The two directions of MaxRecvDataSegmentLength are told apart by a ``Target`` before the
        name.
        """
        digest = {True: "CRC32C", False: "None"}
        keys = {
            "HeaderDigest": digest[self.header_digest],
            "DataDigest": digest[self.data_digest],
            "MaxConnections": str(self.max_connections),
            "InitialR2T": format_boolean(self.initial_r2t),
            "ImmediateData": format_boolean(self.immediate_data),
            "MaxRecvDataSegmentLength": str(self.max_recv_data_segment_length),
            "TargetMaxRecvDataSegmentLength": str(self.target_max_recv_data_segment_length),
            "MaxBurstLength": str(self.max_burst_length),
            "FirstBurstLength": str(self.first_burst_length),
            "DefaultTime2Wait": str(self.default_time2wait),
            "DefaultTime2Retain": str(self.default_time2retain),
            "MaxOutstandingR2T": str(self.max_outstanding_r2t),
            "DataPDUInOrder": format_boolean(self.data_pdu_in_order),
            "DataSequenceInOrder": format_boolean(self.data_sequence_in_order),
            "ErrorRecoveryLevel": str(self.error_recovery_level),
            "TaskReporting": self.task_reporting,
            "iSCSIProtocolLevel": str(self.iscsi_protocol_level),
        }
        if self.target_alias:
            keys["TargetAlias"] = self.target_alias
        if self.target_portal_group_tag is not None:
            keys["TargetPortalGroupTag"] = str(self.target_portal_group_tag)
        return keys


def own_values(
    settings: Settings,
    *,
    discovery: bool = False,
    task_reporting: Sequence[str] | None = None,
    protocol_level: int | None = None,
) -> dict[str, str]:
    """What we offer, or answer from, for every operational key.

    Lengths go out as multiples of 4, because targets exist that stumble over others.
    """

    def length(value: int) -> str:
        return str(value & ~3)

    receive = settings.max_recv_data_segment_length
    if discovery:
        receive = max(receive, DISCOVERY_MAX_RECV_DATA_SEGMENT_LENGTH)
    if protocol_level is None:
        protocol_level = settings.iscsi_protocol_level
    level = 0 if discovery else settings.error_recovery_level  # RFC 7143 7.4.1
    return {
        # A target exists that takes CRC32C in discovery, and then drops the connection.
        "HeaderDigest": "None" if discovery else format_list(settings.header_digest),
        "DataDigest": "None" if discovery else format_list(settings.data_digest),
        "MaxConnections": "1",
        "InitialR2T": format_boolean(settings.initial_r2t),
        "ImmediateData": format_boolean(settings.immediate_data),
        "MaxRecvDataSegmentLength": length(receive),
        "MaxBurstLength": length(settings.max_burst_length),
        "FirstBurstLength": length(settings.first_burst_length),
        "DefaultTime2Wait": str(settings.default_time2wait),
        "DefaultTime2Retain": str(settings.time2retain),
        # RFC 7143 13.19: with ErrorRecoveryLevel > 0 and sequences in order it must be 1.
        "MaxOutstandingR2T": "1" if level else str(settings.max_outstanding_r2t),
        "DataPDUInOrder": "Yes",
        "DataSequenceInOrder": "Yes",
        "ErrorRecoveryLevel": str(level),
        "TaskReporting": format_list(task_reporting or settings.task_reporting),
        "iSCSIProtocolLevel": str(protocol_level),
    }


def operational_keys(*, discovery: bool, leading: bool) -> tuple[str, ...]:
    """The keys that a login of this kind offers, in the order of sending.

    RFC 7143 13: leading-only keys go with the first connection of a session alone.
    """
    if discovery:
        return _DISCOVERY_KEYS
    return _NORMAL_KEYS if leading else _CONNECTION_KEYS


def negotiated_parameters(
    negotiation: Negotiation, leading_parameters: Parameters | None = None
) -> Parameters:
    """Read the outcome of a login phase.

    ``leading_parameters`` are those of the session that a further connection joins: only the keys
    of connection scope change then.

    Raises:
        NegotiationFailed: the digest in force is not one that we offered.
    """
    header_digest = _digest(negotiation, "HeaderDigest")
    data_digest = _digest(negotiation, "DataDigest")
    alias = negotiation.received("TargetAlias") or ""
    tag = negotiation.declared_number("TargetPortalGroupTag")
    # Without a declaration the default holds, whatever the target does with ours (RFC 7143 13.12).
    theirs = negotiation.declared_number("MaxRecvDataSegmentLength") or 8192
    ours = int(negotiation.sent("MaxRecvDataSegmentLength") or 8192)
    if leading_parameters is not None:
        return replace(
            leading_parameters,
            header_digest=header_digest,
            data_digest=data_digest,
            max_recv_data_segment_length=ours,
            target_max_recv_data_segment_length=theirs,
            target_alias=alias or leading_parameters.target_alias,
            target_portal_group_tag=tag,
        )
    max_burst_length = negotiation.number("MaxBurstLength")
    level = negotiation.number("ErrorRecoveryLevel")
    in_order = negotiation.boolean("DataSequenceInOrder")
    outstanding = negotiation.number("MaxOutstandingR2T")
    return Parameters(
        header_digest=header_digest,
        data_digest=data_digest,
        max_connections=negotiation.number("MaxConnections"),
        initial_r2t=negotiation.boolean("InitialR2T"),
        immediate_data=negotiation.boolean("ImmediateData"),
        max_recv_data_segment_length=ours,
        target_max_recv_data_segment_length=theirs,
        max_burst_length=max_burst_length,
        # RFC 7143 13.14: "FirstBurstLength MUST NOT exceed MaxBurstLength": sending less is always
        # allowed, so a target that answers otherwise does no harm.
        first_burst_length=min(negotiation.number("FirstBurstLength"), max_burst_length),
        default_time2wait=negotiation.number("DefaultTime2Wait"),
        default_time2retain=negotiation.number("DefaultTime2Retain"),
        max_outstanding_r2t=1 if level and in_order else outstanding,
        data_pdu_in_order=negotiation.boolean("DataPDUInOrder"),
        data_sequence_in_order=in_order,
        error_recovery_level=level,
        task_reporting=negotiation.in_force("TaskReporting"),
        iscsi_protocol_level=negotiation.number("iSCSIProtocolLevel"),
        target_alias=alias,
        target_portal_group_tag=tag,
    )


def _digest(negotiation: Negotiation, name: str) -> bool:
    value = negotiation.in_force(name)
    offered = negotiation.sent(name)
    if offered is not None and value not in offered.split(","):
        raise NegotiationFailed(
            f"{name} would be {value}, but only {offered} is allowed here: the target refused or "
            f"ignored the offer; allow None, or switch the digest on at the target",
            key=name,
            value=value,
        )
    return value == "CRC32C"
