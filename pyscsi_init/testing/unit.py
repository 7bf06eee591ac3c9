# SPDX-License-Identifier: Apache-2.0
"""A logical unit: a disk with the state that SCSI keeps beside it.

Owns the unit attentions of each nexus, reservations, the control bits of the mode pages, whether
the unit is started, and which commands are at this moment under way to the medium. One unit may be
given to several targets: it is then one logical unit with several paths. It knows no session and no
connection; what sessions have to do on its account is told through callbacks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from .conditions import (
    ASYMMETRIC_ACCESS_STATE_CHANGED,
    BUS_DEVICE_RESET_FUNCTION_OCCURRED,
    CAPACITY_DATA_HAS_CHANGED,
    INQUIRY_DATA_HAS_CHANGED,
    Nexus,
    SenseCode,
)
from .disk import Disk
from .reservations import Reservations

MOST_ATTENTIONS = 16


class LogicalUnit:
    """One logical unit.

    ``vendor``, ``product`` and ``revision`` are what INQUIRY shows. ``commands`` counts what was
    carried out, by operation code.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        vendor: str = "PYSCSI",
        product: str = "TESTING TARGET",
        revision: str = "0001",
    ) -> None:
        self.disk = disk
        self.vendor = vendor
        self.product = product
        self.revision = revision
        self.nexuses: dict[Nexus, list[SenseCode]] = {}
        """Each nexus that is logged in, with the attentions that wait for it."""
        self.reservations = Reservations(self.attention_for, self._abort_nexus, self._ports)
        self.abort_nexus: list[Callable[[LogicalUnit, Nexus], None]] = []
        """Called to end the tasks of a nexus on this unit (PREEMPT AND ABORT)."""
        self.access_states: dict[int, int] = {}
        """Target port group -> access state (ALUA); see :meth:`set_access_state`."""
        self.explicit_access_states = False
        """SET TARGET PORT GROUPS is known."""
        self.commands: Counter[int] = Counter()
        self.started = True
        self.software_write_protect = False
        self.descriptor_sense = False
        self.prevented: set[Nexus] = set()
        self.announce_capacity_change = True
        self.under_way: set[Any] = set()
        """Commands that are on their way to the medium and not there yet."""
        self._when_idle: list[Callable[[], None]] = []

    # What is asked by the command handlers

    @property
    def block_size(self) -> int:
        """Logical block length in bytes."""
        return self.disk.block_size

    @property
    def blocks(self) -> int:
        """Capacity in logical blocks."""
        return self.disk.size // self.disk.block_size

    @property
    def write_protected(self) -> bool:
        """True when the medium may not be changed."""
        return self.disk.read_only or self.software_write_protect

    @property
    def naa(self) -> bytes:
        """A locally assigned NAA designator (type 3h), made from the serial number."""
        digest = hashlib.sha256(self.disk.serial.encode()).digest()[:8]
        return bytes((0x30 | digest[0] & 0x0F,)) + digest[1:]

    def next_attention(self, nexus: Nexus) -> SenseCode | None:
        """Take the oldest attention of this nexus."""
        waiting = self.nexuses.get(nexus)
        return waiting.pop(0) if waiting else None

    # What a test does

    def grow(self, size: int) -> None:
        """Change the size in bytes; every nexus finds CAPACITY DATA HAS CHANGED."""
        self.disk.resize(size)
        if self.announce_capacity_change:
            self.attention(CAPACITY_DATA_HAS_CHANGED)

    def swap(self, disk: Disk, *, announce: bool = True) -> Disk:
        """Put another disk behind the same LUN and return the old one."""
        old, self.disk = self.disk, disk
        if announce:
            self.attention(INQUIRY_DATA_HAS_CHANGED)
        return old

    def set_access_state(self, group: int, state: int, *, by: Nexus | None = None) -> None:
        """Give a target port group an access state (0 active/optimized, 1 active/non-optimized,
        2 standby, 3 unavailable, Fh transitioning); every nexus but the one that asked finds
        ASYMMETRIC ACCESS STATE CHANGED. A group is a portal group: its number is the tag."""
        if self.access_states.get(group) != state:
            self.access_states[group] = state
            self.attention(ASYMMETRIC_ACCESS_STATE_CHANGED, but=by)

    def access_state(self, nexus: Nexus) -> int:
        """The access state of the port of a nexus; active/optimized where no group was made."""
        return self.access_states.get(nexus.target_portal_group_tag, 0)

    def attention(self, code: SenseCode, *, but: Nexus | None = None) -> None:
        """Leave a unit attention for every nexus except ``but``."""
        for nexus in self.nexuses:
            if nexus != but:
                self.attention_for(nexus, code)

    def attention_for(self, nexus: Nexus, code: SenseCode) -> None:
        """Leave a unit attention for one nexus; one of a kind waits at most once."""
        waiting = self.nexuses.get(nexus)
        if waiting is not None and code not in waiting and len(waiting) < MOST_ATTENTIONS:
            waiting.append(code)

    # What sessions do

    def attach(self, nexus: Nexus) -> None:
        """A session with this nexus begins."""
        self.nexuses[nexus] = []

    def detach(self, nexus: Nexus) -> None:
        """The session with this nexus has ended."""
        self.nexuses.pop(nexus, None)
        self.prevented.discard(nexus)
        self.reservations.nexus_lost(nexus)

    def reset(self, *, but: Nexus | None) -> None:
        """LOGICAL UNIT RESET, the state of the unit; the tasks are ended by who asks for it."""
        self.reservations.reset()
        self.prevented.clear()
        self.software_write_protect = False
        self.descriptor_sense = False
        self.started = True
        self.attention(BUS_DEVICE_RESET_FUNCTION_OCCURRED, but=but)

    # Commands on their way to the medium

    def begin(self, task: Any) -> None:
        """A command is under way to the medium from now on."""
        self.under_way.add(task)

    def end(self, task: Any) -> None:
        """It has arrived there, or never will."""
        self.under_way.discard(task)
        if not self.under_way:
            waiting, self._when_idle = self._when_idle, []
            for callback in waiting:
                callback()

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call back once nothing is under way to the medium; at once when that is so now."""
        if self.under_way:
            self._when_idle.append(callback)
        else:
            callback()

    def _abort_nexus(self, nexus: Nexus) -> None:
        for callback in self.abort_nexus:
            callback(self, nexus)

    def _ports(self) -> set[int]:
        return {nexus.target_portal_group_tag for nexus in self.nexuses} | set(self.access_states)
