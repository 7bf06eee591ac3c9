# SPDX-License-Identifier: Apache-2.0
"""Sequences of commands as generators: written once, driven by whoever can wait.

A step sequence yields what it wants done and is sent the outcome. So attach and recovery share the
same inquiries, and both are tested against a list of canned answers, without a session.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

from ..errors import IllegalRequest, Unsupported
from ..scsi import (
    Action,
    SenseKey,
    Status,
    command_name,
    parse_sense,
    scsi_error,
    sense_action,
)
from ..session import Replay


@dataclass(frozen=True, slots=True)
class Command:
    """Send a CDB, with ``data_out`` if there is any; ``data_in_length`` bytes may come back.

    ``replay`` and ``modifies`` are those of :class:`ScsiTask`; what only asks may be asked again.
    ``seconds`` None is the usual time of a command.
    """

    cdb: bytes
    data_in_length: int = 0
    what: str = "command"
    data_out: bytes = b""
    replay: Replay = Replay.SAFE
    modifies: bool = False
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next step: the unit said that it becomes ready."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ResetUnit:
    """LOGICAL UNIT RESET; the outcome carries no data. A refusal is raised into the sequence."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: SCSI status, sense, and the bytes that came."""

    status: int = Status.GOOD
    sense: bytes = b""
    data: bytes = b""


Step = Command | Pause | ResetUnit
T = TypeVar("T")
Steps = Generator[Step, Outcome, T]

MAX_UNIT_ATTENTIONS = 16
"""A unit that has more to say than this in a row has something wrong with it."""

MAX_NOT_READY = 30
"""Pauses of a second that a unit may take to become ready."""

_UNKNOWN_CODES = frozenset({0x20, 0x24})
"""INVALID COMMAND OPERATION CODE; INVALID FIELD IN CDB, for a service action."""


def ask(command: Command) -> Steps[Outcome]:
    """Send a command until the answer is about the command: unit attentions and the like are taken
    and the command repeated. The outcome may still be a status other than GOOD.

    What was aborted half way is repeated only where doing it twice is the same as doing it once.
    """
    attentions = pauses = 0
    safe = command.replay is Replay.SAFE
    while True:
        outcome = yield command
        if outcome.status in (Status.BUSY, Status.TASK_SET_FULL) and pauses < MAX_NOT_READY:
            pauses += 1
            yield Pause(min(0.05 * 2**pauses, 1.0))
            continue
        if outcome.status == Status.TASK_ABORTED and safe and attentions < MAX_UNIT_ATTENTIONS:
            attentions += 1
            continue
        if outcome.status != Status.CHECK_CONDITION:
            return outcome
        sense = parse_sense(outcome.sense)
        action = sense_action(sense)
        if action is Action.COMPLETE_GOOD:
            return Outcome(Status.GOOD, b"", outcome.data)
        if action is Action.RETRY_DELAYED and pauses < MAX_NOT_READY:
            pauses += 1
            yield Pause(1.0)
            continue
        again = sense.sense_key == SenseKey.UNIT_ATTENTION or sense.deferred
        if (again or (safe and action is Action.RETRY)) and attentions < MAX_UNIT_ATTENTIONS:
            attentions += 1
            continue
        return outcome


def demand(command: Command) -> Steps[bytes]:
    """Like :func:`ask`, and the status must be GOOD; returns the data.

    Raises:
        ScsiError: with what the unit said.
    """
    outcome = yield from ask(command)
    if outcome.status != Status.GOOD:
        raise scsi_error(outcome.status, outcome.sense, command.what)
    return outcome.data


def attempt(command: Command) -> Steps[bytes | None]:
    """Like :func:`demand`, but None where the unit does not know the command or the page.

    Another failure may pass, and is no answer: taken for one, it would make of the same unit
    another one.

    Raises:
        ScsiError: any other refusal.
    """
    try:
        return (yield from demand(command))
    except IllegalRequest:
        return None


def demand_if_known(command: Command, what: str) -> Steps[bytes]:
    """Like :func:`demand`, and a command that the unit does not know is Unsupported; ``what``
    names the unit."""
    try:
        return (yield from demand(command))
    except IllegalRequest as error:
        if error.asc in _UNKNOWN_CODES and error.ascq == 0:
            name = command_name(command.cdb)
            raise Unsupported(f"{what} does not know {name}, or not so ({error})") from error
        raise
