# SPDX-License-Identifier: Apache-2.0
"""PERSISTENT RESERVE IN and OUT as step sequences, with what is found out after a lost connection.

reservation.py says what may be found out, and why; nothing here waits or sends.
"""

from __future__ import annotations

from ..errors import OutcomeUnknown, ReservationConflict, TaskTimeout
from ..scsi import (
    PersistentReserveIn,
    PersistentReserveOut,
    RegisterAndMoveParameters,
    RegisteredKeys,
    ReservationStatus,
    ReservationType,
    ReserveOutParameters,
    command_name,
    persistent_reserve_in,
    persistent_reserve_length,
    persistent_reserve_out,
)
from ..session import Replay
from .steps import Command, Steps, demand_if_known

FIRST_LENGTH = 4096
LARGEST_LENGTH = 65535
"""What the allocation length of PERSISTENT RESERVE IN can say; more keys are cut off."""

ALL_REGISTRANTS = frozenset(
    {
        ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
        ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
    }
)
_UNKNOWN = (OutcomeUnknown, TaskTimeout)
NO_TYPE = 0

_Out = PersistentReserveOut
_In = PersistentReserveIn

_CONFLICTS: dict[int, str] = {
    _Out.REGISTER: (
        "this initiator is registered with another key than {key}; read_keys() lists the keys, "
        "register_and_ignore_existing_key() replaces its own"
    ),
    _Out.RESERVE: (
        "another initiator holds a reservation (read_reservation() tells which), or this one is "
        "not registered with key {key}"
    ),
    _Out.PREEMPT: (
        "this initiator is not registered with key {key}, or nobody is registered with the key "
        "that was to be removed (read_keys() lists them)"
    ),
}
_CONFLICT = (
    "this initiator is not registered with key {key}: it never was, or another initiator removed "
    "its registration"
)


def key_text(key: int) -> str:
    """``0x0000000000000001``."""
    return f"0x{key:016x}"


class ReservationSteps:
    """The sequences for one unit. ``certain``: after a lost connection the unit is reset before
    anything else is asked, so that what is found then is what stays."""

    def __init__(self, what: str, *, certain: bool) -> None:
        self._what = what
        self._certain = certain

    def read(self, action: PersistentReserveIn) -> Steps[bytes]:
        """The whole answer, however long."""
        length = FIRST_LENGTH
        while True:
            cdb = persistent_reserve_in(action, length)
            data = yield from demand_if_known(Command(cdb, length, command_name(cdb)), self._what)
            if action is _In.REPORT_CAPABILITIES:
                return data
            needed = persistent_reserve_length(data)
            if needed <= length or length >= LARGEST_LENGTH:
                return data
            length = min(needed, LARGEST_LENGTH)

    def keys(self) -> Steps[RegisteredKeys]:
        """READ KEYS."""
        return RegisteredKeys.parse((yield from self.read(_In.READ_KEYS)))

    def held(self) -> Steps[ReservationStatus]:
        """READ RESERVATION."""
        return ReservationStatus.parse((yield from self.read(_In.READ_RESERVATION)))

    def write(
        self,
        action: PersistentReserveOut,
        options: ReserveOutParameters | RegisterAndMoveParameters,
        kind: int = NO_TYPE,
        *,
        again: bool = False,
    ) -> Steps[None]:
        """One PERSISTENT RESERVE OUT. ``again``: doing it twice is the same as doing it once."""
        data = options.build()
        cdb = persistent_reserve_out(action, reservation_type=kind, parameter_list_length=len(data))
        # A unit that is never reset may still do the first one after the second.
        replay = Replay.SAFE if again and self._certain else Replay.NEVER
        command = Command(cdb, 0, command_name(cdb), data_out=data, replay=replay, modifies=True)
        try:
            yield from demand_if_known(command, self._what)
        except ReservationConflict as error:
            base = _Out.PREEMPT if action is _Out.PREEMPT_AND_ABORT else action
            why = _CONFLICTS.get(base, _CONFLICT).format(key=key_text(options.key))
            raise ReservationConflict(f"{command.what}: {why}", status=error.status) from error

    def registered(self, key: int, options: ReserveOutParameters) -> Steps[bool]:
        """This very nexus is registered with ``key``: setting it again tells, and changes nothing.
        READ KEYS would not do: other nexuses may have the same key."""
        same = ReserveOutParameters(
            key=key,
            service_action_key=key,
            aptpl=options.aptpl,
            all_target_ports=options.all_target_ports,
        )
        try:
            yield from self.write(_Out.REGISTER, same, again=True)
        except ReservationConflict:
            return False
        return True

    def register(self, action: PersistentReserveOut, options: ReserveOutParameters) -> Steps[None]:
        """REGISTER, or REGISTER AND IGNORE EXISTING KEY."""
        new, old = options.service_action_key, options.key
        try:
            yield from self.write(action, options)
        except _UNKNOWN as error:
            if not self._certain or not (new or old):
                raise
            there = yield from self.registered(new or old, options)
            if new and not there:
                raise OutcomeUnknown(
                    f"{error}; the key {key_text(new)} is not registered now: that was not done, "
                    f"or another initiator removed it since; register again only if this node may"
                ) from error
            if there and not new:
                yield from self.write(action, options)

    def clear(self, key: int) -> Steps[None]:
        """CLEAR."""
        own = ReserveOutParameters(key=key)
        try:
            yield from self.write(_Out.CLEAR, own)
        except _UNKNOWN as error:
            if not self._certain:
                raise
            if (yield from self.registered(key, own)):
                yield from self.write(_Out.CLEAR, own)
                return
            keys = (yield from self.keys()).keys
            if keys:
                raise OutcomeUnknown(f"{error}; {_now(keys, None)}") from error

    def preempt(
        self, action: PersistentReserveOut, key: int, victim: int, kind: ReservationType
    ) -> Steps[None]:
        """PREEMPT, or PREEMPT AND ABORT."""
        options = ReserveOutParameters(key=key, service_action_key=victim)
        try:
            yield from self.write(action, options, kind)
        except _UNKNOWN as error:
            if not self._certain:
                raise
            keys = (yield from self.keys()).keys
            held = yield from self.held()
            if not _preempted(keys, held, key, victim, kind):
                raise OutcomeUnknown(f"{error}; {_now(keys, held)}") from error


def _preempted(
    keys: tuple[int, ...],
    held: ReservationStatus,
    key: int,
    victim: int,
    kind: ReservationType,
) -> bool:
    """That is how it looks after the PREEMPT, for certain."""
    if victim in (0, key) or victim in keys or key not in keys or held.reservation is None:
        return False
    holder = 0 if kind in ALL_REGISTRANTS else key
    return held.reservation.key == holder and held.reservation.reservation_type == kind


def _now(keys: tuple[int, ...], held: ReservationStatus | None) -> str:
    listed = ", ".join(map(key_text, keys)) or "none"
    if held is None:
        return f"registered now: {listed}"
    holder = key_text(held.reservation.key) if held.reservation else "nobody"
    return f"registered now: {listed}; the unit is held by {holder}"
