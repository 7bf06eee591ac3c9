# SPDX-License-Identifier: Apache-2.0
"""What a target declares, accepts and demands: keys, CHAP accounts and redirects.

The operational keys carry their RFC 7143 names in snake_case. Each is this side's own value; what
holds in a session is the result of the negotiation (negotiation.py). The other fields are
properties that the standard leaves to the target, such as the size of the command window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import ConfigurationError

MD5, SHA1, SHA256, SHA3_256 = 5, 6, 7, 8
"""CHAP_A values (RFC 7143 12.1.3 and the IANA registry)."""


@dataclass(slots=True, kw_only=True)
class TargetSettings:
    """The values of one target. They may be changed at any time; the next login sees them."""

    header_digest: tuple[str, ...] = ("None", "CRC32C")
    """Digests this side takes; the initiator's order of preference decides."""
    data_digest: tuple[str, ...] = ("None", "CRC32C")
    initial_r2t: bool = False
    immediate_data: bool = True
    max_recv_data_segment_length: int | None = 262144
    """None declares nothing, so the initiator has to stay with 8192."""
    max_burst_length: int = 1048576
    first_burst_length: int = 262144
    max_outstanding_r2t: int = 4
    max_connections: int = 1
    default_time2wait: int = 2
    default_time2retain: int = 0
    error_recovery_level: int = 0
    data_pdu_in_order: bool = True
    data_sequence_in_order: bool = True
    iscsi_protocol_level: int = 2
    """2: the task management functions of RFC 7144 too, where the initiator offers it."""
    target_alias: str = ""
    extra_keys: tuple[tuple[str, str], ...] = ()
    """Further keys that the target sends on its own in the operational stage."""
    answers: dict[str, str | None] = field(default_factory=dict)
    """Key -> literal answer instead of the negotiated one; None leaves the key unanswered.
    The session then runs with what the target should have answered."""

    acknowledge_data: bool = False
    """At error recovery level 1 the A bit asks for a DataACK at the end of each burst."""
    sequence_timeout: float = 0.5
    """Seconds without the Data-Out that is due, before it is asked for again; at error recovery
    level 1 only."""
    command_window: int = 128
    """Most commands in flight: MaxCmdSN runs this far ahead of ExpCmdSN when the target is idle."""
    initial_stat_sn: int = 1
    phase_collapse: bool = True
    """GOOD status travels in the last Data-In PDU; False sends a SCSI Response of its own."""
    max_data_in_segment: int = 2**24 - 1
    """Data-In PDUs are at most this long, whatever the initiator would take."""
    unit_attention_on_login: bool = False
    """A new session finds 29/00 on every logical unit, as many targets do."""
    unit_attention_on_capacity_change: bool = True
    reset_unit_attention_to_all: bool = True
    """The nexus that asked for a reset finds the unit attention too, as SAM-5 wants it."""
    nop_in_interval: float | None = None
    """Seconds between the target's own pings; None sends none."""
    nop_in_timeout: float = 5.0
    """A ping that stays unanswered for so long ends the connection."""

    writes_outlive_session: bool = True
    """A write that is under way when its session ends is still carried out (real targets do)."""
    reset_waits_for_writes: bool = True
    """LOGICAL UNIT RESET answers after the writes that are under way have landed. False answers at
    once and lets them land later: a target on which a reset is no barrier."""
    abort_stops_writes: bool = True
    """ABORT TASK and its kin keep a write that is under way from landing; False lets it land after
    the function was answered."""

    sense_format: str = "fixed"
    """"fixed" or "descriptor"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetChap:
    """One CHAP account: what an initiator must show, and what the target shows in return."""

    user: str
    secret: bytes = field(repr=False)
    mutual_user: str = ""
    mutual_secret: bytes | None = field(default=None, repr=False)
    algorithms: tuple[int, ...] = (MD5, SHA1, SHA256, SHA3_256)
    """What this side can do; the first of the initiator's list that is in here is taken."""
    encoding: str = "hex"
    """"hex" or "base64": how binary values are written."""
    challenge_length: int = 32
    wrong_mutual_response: bool = False
    """Answer the initiator's challenge with one wrong bit."""
    reflect_challenge: bool = False
    """Prove with the initiator's own secret, as an impostor that got it reflected would."""

    def __post_init__(self) -> None:
        if self.encoding not in ("hex", "base64"):
            raise ConfigurationError("CHAP encoding", self.encoding, "is neither hex nor base64")
        if not 1 <= self.challenge_length <= 1024:
            raise ConfigurationError(
                "CHAP challenge length", self.challenge_length, "is not in 1..1024"
            )


ChapAccounts = TargetChap | Sequence[TargetChap] | None


def chap_accounts(chap: ChapAccounts) -> tuple[TargetChap, ...]:
    """One account, several, or none, as a tuple."""
    if chap is None:
        return ()
    return (chap,) if isinstance(chap, TargetChap) else tuple(chap)


@dataclass(frozen=True, slots=True)
class Redirect:
    """An answer to a login: the target is found at ``address`` (``host:port``, ``[v6]:port``)."""

    address: str
    permanent: bool = False
