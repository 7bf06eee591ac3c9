# SPDX-License-Identifier: Apache-2.0
"""The stages of the login phase as a table (RFC 7143 6.3).

Which stage may follow which, what we ask for, and which keys a stage allows. The login machine asks
these tables; it has no ladder of its own. Nothing here knows PDUs.
"""

from __future__ import annotations

from ..errors import ProtocolError
from ..pdu import Stage
from .keys import KEYS, Use
from .text import shorten

START_STAGES = frozenset((Stage.SECURITY_NEGOTIATION, Stage.LOGIN_OPERATIONAL_NEGOTIATION))
"""Stages in which a login phase may begin."""

TRANSITIONS: frozenset[tuple[Stage, Stage]] = frozenset(
    (
        (Stage.SECURITY_NEGOTIATION, Stage.LOGIN_OPERATIONAL_NEGOTIATION),
        (Stage.SECURITY_NEGOTIATION, Stage.FULL_FEATURE_PHASE),
        (Stage.LOGIN_OPERATIONAL_NEGOTIATION, Stage.FULL_FEATURE_PHASE),
    )
)
"""From -> to, as the table of RFC 7143 6.3 has it."""

REQUESTED: dict[Stage, Stage] = {
    Stage.SECURITY_NEGOTIATION: Stage.LOGIN_OPERATIONAL_NEGOTIATION,
    Stage.LOGIN_OPERATIONAL_NEGOTIATION: Stage.FULL_FEATURE_PHASE,
}
"""The next stage that we ask for: every stage in turn, so that our keys are always negotiated."""


def check_transition(current: Stage, requested: int, selected: int) -> Stage:
    """The stage that the target selected.

    Raises:
        ProtocolError: no such transition, or further than we asked.
    """
    for origin, following in TRANSITIONS:
        if origin is current and following == selected and selected <= requested:
            return following
    raise ProtocolError(
        f"the target went from login stage {current.value} to {selected} when we asked for "
        f"{requested} (RFC 7143 6.3)"
    )


def check_stage_key(stage: Stage, name: str) -> None:
    """Hold a key of the target against the stage it came in.

    Raises:
        ProtocolError: the key belongs to another stage, or to full feature phase.
    """
    row = KEYS.get(name)
    if row is None:
        return
    if stage is Stage.SECURITY_NEGOTIATION:
        legal = row.any_stage
    else:
        legal = row.use not in (Use.SECURITY, Use.FULL_FEATURE_PHASE_ONLY)
    if not legal:
        raise ProtocolError(
            f"the target sent {shorten(name)} in login stage {stage.value}, where it is not "
            f"allowed (RFC 7143 6.3, {row.clause})"
        )
