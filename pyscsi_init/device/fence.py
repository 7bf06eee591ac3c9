# SPDX-License-Identifier: Apache-2.0
"""Fencing: of all nodes one writes to a unit, and one that lost the unit can write no more.

The node registers a key and reserves the unit WRITE EXCLUSIVE - REGISTRANTS ONLY (SPC-4 5.12): the
target itself then refuses the writes of everybody else, and lets them read. The key is made from
the initiator's name, so a node that died finds its own registration and nobody else takes it for
theirs. Here are the sequences and what is decided from the answers; nothing waits or sends.

A **key** stands for a node, a **registration** belongs to one I_T nexus. A node may have more than
one: the old one under another ISID or port, and on tgt one for each session that is gone, because
tgt takes every login for another nexus. They count as ours: the newest nexus removes the others and
holds what they held, and a takeover removes them all. Should one of the others be alive (the LUN
was attached by another name, which is refused only after the login), it meets a conflict, finds
the key of its node, and registers again; so who is refused must leave the key where it was.

**Is it still ours?** (:meth:`Fence.check`, after every new login, in a successor, and whenever the
unit hints that it is not.) Our key is there and the unit is reserved with it: yes. Another key has
it: no. No key at all is there: then a target that keeps registrations in memory was started anew,
*or* another node took the unit over, wrote, and has left. The two look alike but for PRGENERATION,
which every registration counts up and which begins at 0 with the target. So only a target that has
seen no registration since its start, and that did count ours before, has forgotten us; anything
else is a takeover, and nothing of ours is written.

**Through a loss of power.** Where the unit can keep registrations (PTPL_C), each REGISTER asks it
to (APTPL): also one that only gives a key back, because the last one counts for all nodes. One that
refuses, then or later (another controller of an array may), is not asked again.

**Losing a race.** Between the look and the registration another node may come. So the last word has
the unit: after the registration it is looked who holds the reservation, nothing is written before
that, and who does not hold it unregisters.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..errors import (
    Fenced,
    HeldByAnother,
    IllegalRequest,
    IscsiError,
    ProtocolError,
    ReservationConflict,
    ScsiError,
    Unsupported,
)
from ..scsi import (
    FullStatus,
    PersistentReserveIn,
    PersistentReserveOut,
    RegisteredKeys,
    Reservation,
    ReservationCapabilities,
    ReservationType,
    ReserveOutParameters,
)
from .probe import become_ready
from .record import FenceRecord
from .reservation_steps import ALL_REGISTRANTS, ReservationSteps, key_text
from .steps import ResetUnit, Steps

KIND = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
MAX_ROUNDS = 8
"""Of looking and acting, where other nodes act at the same time."""

INVALID_FIELD_IN_PARAMETER_LIST = (0x26, 0x00)

_Out = PersistentReserveOut
_REGISTERING = (_Out.REGISTER, _Out.REGISTER_AND_IGNORE_EXISTING_KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fencing:
    """What :func:`open_lun` does to keep other nodes from writing."""

    required: bool = False
    """Refuse a unit that has no persistent reservations, instead of going on without."""
    take_over: bool = False
    """Take the unit away from the node that has it. Only if that node must not write any more."""
    key: int | None = None
    """1 to 2**64-1; None makes it from the initiator's name."""


def node_key(initiator_name: str) -> int:
    """The key of a node: the same for the same name, and for no other."""
    digest = hashlib.sha256(b"pyscsi-init node\0" + initiator_name.encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1


def _is_of_the_list(error: IllegalRequest) -> bool:
    return (error.asc, error.ascq) == INVALID_FIELD_IN_PARAMETER_LIST


class Fence:
    """The fence of one unit. ``key`` is this node's; ``held``: the unit was ours when it was last
    looked at."""

    def __init__(self, what: str, key: int, *, generation: int = 0) -> None:
        self.what = what
        self.key = key
        self.held = False
        self.registered = False
        """There may be a registration of ours that has to be given back."""
        self.found = False
        """Our key was there before: of this node's past, or of another volume of it."""
        self.generation = generation
        self.persists = False
        """The unit was asked to keep registrations through a loss of power, and has not refused."""
        self.refuses_to_persist: IllegalRequest | Unsupported | None = None
        """It says, or said, that it can, and did not."""
        self._commands = ReservationSteps(what, certain=False)

    def __repr__(self) -> str:
        return f"<Fence of {self.what} key={self.key:#018x} {'held' if self.held else 'not held'}>"

    @classmethod
    def remembered(cls, what: str, record: FenceRecord) -> Fence:
        """The fence of a predecessor, to be checked."""
        fence = cls(what, record.key, generation=record.generation)
        fence.registered, fence.persists = True, record.persists
        return fence

    @property
    def record(self) -> FenceRecord:
        """What a successor needs to know."""
        return FenceRecord(self.key, self.generation, self.persists)

    # -- the sequences ---------------------------------------------------------------------------

    def take(self, *, take_over: bool) -> Steps[None]:
        """Make the unit ours.

        Raises:
            HeldByAnother: another node has it, and it is not to be taken over.
            Unsupported: the unit has no persistent reservations.
            ScsiError: another refusal. What was done is left to :meth:`release`.
        """
        seized = False
        try:
            keys, held = yield from self._look()
            self.found = self.key in keys.keys
            if self._others(keys, held) and not take_over:
                raise (yield from self._refusal(keys, held))
            self.persists = yield from self._can_persist()
            yield from self._register()
        except IllegalRequest as error:
            raise Unsupported(f"{self.what} takes no persistent reservation ({error})") from error
        cleaned = not self.found
        for _ in range(MAX_ROUNDS):
            keys, held = yield from self._look()
            if self.key not in keys.keys:
                break
            if not cleaned and keys.keys.count(self.key) > 1:
                cleaned = True
                if not (yield from self._clean()):
                    yield from self._withdraw()
                    raise self._shut_out()
            elif self._is_ours(held) and not (take_over and self._others(keys, held)):
                self._is_held(keys)
                if seized or self.found:
                    # What the other node, or we before our death, have under way ends before
                    # anything new is written.
                    yield ResetUnit()
                    yield from become_ready()
                return
            elif take_over and self._others(keys, held):
                yield from self._seize(keys, held)
                seized = True
            elif held is None:
                yield from self._reserve()
            else:
                break
        yield from self._withdraw()
        raise (yield from self._refusal(keys, held))

    def check(self) -> Steps[bool]:
        """Whether the unit is still ours. False: the target has forgotten all registrations, and
        :meth:`renew` has to follow before anything is written.

        Raises:
            Fenced: another node has it, or had it.
        """
        cleaned = False
        keys, held = yield from self._look()
        for _ in range(MAX_ROUNDS):
            if self.key not in keys.keys:
                if keys.keys or held is not None or keys.generation or not self.generation:
                    break
                self.held = False
                return False
            if held is not None and not self._is_ours(held):
                break
            if not (yield from self._registered_here()):
                yield from self._register_here()
            elif held is None:
                yield from self._reserve()
            elif keys.keys.count(self.key) > 1 and not cleaned:
                cleaned = True
                yield from self._clean()
            else:
                self._is_held(keys)
                return True
            keys, held = yield from self._look()
        yield from self._withdraw()
        self.held = False
        raise (yield from self._lost(keys, held))

    def renew(self) -> Steps[None]:
        """Make a unit ours again whose target has forgotten it.

        Raises:
            Fenced: another node was faster.
        """
        try:
            yield from self.take(take_over=False)
        except HeldByAnother as error:
            raise Fenced(
                f"{error}; it came while the target had forgotten us, and nothing of this node is "
                f"written any more",
                key=error.key,
                ports=error.ports,
            ) from error

    def release(self) -> Steps[None]:
        """Give the unit back, with all that this node has registered; not having it is no error."""
        self.held = False
        keys = yield from self._commands.keys()
        if keys.keys.count(self.key) > 1:
            yield from self._clean()
        try:
            yield from self._write(_Out.RELEASE, kind=KIND)
            yield from self._write(_Out.REGISTER, new_key=0)
        except ReservationConflict:
            pass  # another node has removed it
        self.registered = False

    # -- looking ---------------------------------------------------------------------------------

    def _look(self) -> Steps[tuple[RegisteredKeys, Reservation | None]]:
        """Keys and holder, of the same moment where the unit counts its changes."""
        for _ in range(MAX_ROUNDS):
            keys = yield from self._commands.keys()
            held = yield from self._commands.held()
            if keys.generation == held.generation:
                break
        return keys, held.reservation

    def _is_ours(self, held: Reservation | None) -> bool:
        return held is not None and held.key == self.key and held.reservation_type == KIND

    def _others(self, keys: RegisteredKeys, held: Reservation | None) -> tuple[int, ...]:
        """The keys that are in our way, the holder's first; 0 is that of all registrants."""
        found = [] if held is None or self._is_ours(held) else [held.key]
        return tuple(dict.fromkeys([*found, *(key for key in keys.keys if key != self.key)]))

    def _is_held(self, keys: RegisteredKeys) -> None:
        self.held = self.registered = True
        self.generation = keys.generation

    def _can_persist(self) -> Steps[bool]:
        try:
            data = yield from self._commands.read(PersistentReserveIn.REPORT_CAPABILITIES)
            return ReservationCapabilities.parse(data).aptpl
        except (ScsiError, Unsupported, ProtocolError):
            return False  # some targets do not tell

    def _registered_here(self) -> Steps[bool]:
        same = ReserveOutParameters(key=self.key, service_action_key=self.key, aptpl=self.persists)
        try:
            return (yield from self._commands.registered(self.key, same))
        except (IllegalRequest, Unsupported) as error:  # of the field: in the list, or in the CDB
            if not self.persists or not (isinstance(error, Unsupported) or _is_of_the_list(error)):
                raise
            self.persists, self.refuses_to_persist = False, error
            return (yield from self._registered_here())

    # -- acting ----------------------------------------------------------------------------------

    def _write(
        self, action: PersistentReserveOut, *, new_key: int = 0, kind: int = 0, key: int = -1
    ) -> Steps[None]:
        own = self.key if key < 0 else key
        persists = self.persists and action in _REGISTERING
        options = ReserveOutParameters(key=own, service_action_key=new_key, aptpl=persists)
        try:
            yield from self._commands.write(action, options, kind)
        except IllegalRequest as error:
            if not persists or not _is_of_the_list(error):
                raise
            self.persists, self.refuses_to_persist = False, error
            yield from self._write(action, new_key=new_key, key=key)

    def _register(self) -> Steps[None]:
        self.registered = True
        try:
            yield from self._write(_Out.REGISTER_AND_IGNORE_EXISTING_KEY, new_key=self.key, key=0)
        except Unsupported:
            if not (yield from self._registered_here()):
                yield from self._write(_Out.REGISTER, new_key=self.key, key=0)

    def _register_here(self) -> Steps[None]:
        """This nexus too: it is another one than that of our registration."""
        try:
            yield from self._write(_Out.REGISTER, new_key=self.key, key=0)
        except ReservationConflict:
            return  # the next look tells

    def _reserve(self) -> Steps[None]:
        try:
            yield from self._write(_Out.RESERVE, kind=KIND)
        except ReservationConflict:
            return

    def _seize(self, keys: RegisteredKeys, held: Reservation | None) -> Steps[None]:
        for victim in self._others(keys, held):
            yield from self._preempt(victim)

    def _clean(self) -> Steps[bool]:
        """Remove the other registrations with our key, and hold what they held. False: this nexus
        may not."""
        try:
            yield from self._write(_Out.PREEMPT, new_key=self.key, kind=KIND)
        except ReservationConflict:
            return False
        except (IllegalRequest, Unsupported):
            pass  # then they stay: they are ours
        return True

    def _preempt(self, victim: int) -> Steps[None]:
        """With the tasks of the victim where the unit can end them; the reset ends them else."""
        try:
            try:
                yield from self._write(_Out.PREEMPT_AND_ABORT, new_key=victim, kind=KIND)
            except Unsupported:
                yield from self._write(_Out.PREEMPT, new_key=victim, kind=KIND)
        except ReservationConflict:
            return  # gone meanwhile, or we are; the next look tells

    def _withdraw(self) -> Steps[None]:
        """Unregister this nexus, which is registered in vain if it is at all."""
        try:
            yield from self._write(_Out.REGISTER, new_key=0)
            self.registered = False
        except ReservationConflict:
            self.registered = False
        except IscsiError:
            return

    def _shut_out(self) -> HeldByAnother:
        """LIO takes a port for unregistered, whatever it registers, while another port of the same
        initiator holds the unit."""
        return HeldByAnother(
            f"{self.what} is reserved by a dead session of this node (key {key_text(self.key)}, "
            f"another ISID), and the target does not let this session replace it. Remove that "
            f"reservation with `pyscsi-init reservations URL --clear --initiator-name OTHER`",
            key=self.key,
        )

    # -- telling ---------------------------------------------------------------------------------

    def _who(
        self, keys: RegisteredKeys, held: Reservation | None
    ) -> Steps[tuple[int, tuple[str, ...], str]]:
        """Key, initiator ports, and a text of both."""
        others = [key for key in self._others(keys, held) if key]
        key = others[0] if others else 0
        ports: tuple[str, ...] = ()
        try:
            data = yield from self._commands.read(PersistentReserveIn.READ_FULL_STATUS)
            registrations = FullStatus.parse(data).registrations
        except (ScsiError, Unsupported, ProtocolError):
            registrations = ()  # some targets do not tell
        of_all = held is not None and held.reservation_type in ALL_REGISTRANTS
        ports = tuple(each.transport_id.text for each in registrations if each.key == key or of_all)
        text = f"key {key_text(key)}" if key else "no key that is known"
        return key, ports, f"{text} ({', '.join(ports)})" if ports else text

    def _refusal(self, keys: RegisteredKeys, held: Reservation | None) -> Steps[HeldByAnother]:
        key, ports, who = yield from self._who(keys, held)
        kind = held.reservation_type if held is not None else 0
        how = f"has reserved it with type {kind:X}h" if kind else "is registered with it"
        return HeldByAnother(
            f"{self.what} belongs to another node: {who} {how}, and this node's key is "
            f"{key_text(self.key)}. Detach it there. If that node is dead, or must not write any "
            f"more, take the unit over (--take-over), which keeps it from writing for good",
            key=key,
            ports=ports,
        )

    def _lost(self, keys: RegisteredKeys, held: Reservation | None) -> Steps[Fenced]:
        key, ports, who = yield from self._who(keys, held)
        by = f"by {who}" if key else "by a node that has left since, or by an administrator"
        return Fenced(
            f"{self.what} was taken over {by}: the registration of this node, "
            f"{key_text(self.key)}, is gone. Nothing of it is written any more, and what was not "
            f"written by then is lost; detach the volume",
            key=key,
            ports=ports,
        )
