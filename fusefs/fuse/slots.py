# SPDX-License-Identifier: Apache-2.0
"""Request slots: what the kernel has asked and we have not answered, in memory that outlives us.

The kernel gives each request once. So it is read into a slot of shared memory
(:mod:`fusefs.fuse.slotmemory`), where the successor of a killed worker finds it and does it again.
The first 80 bytes of a message (the header and, of READ and WRITE, the structure behind it) land in
the slot by the read itself; that is the record. The rest lands in the big payload area that is the
landing area now. A payload of up to 64 KiB is copied into the slot's own small area; a longer one
keeps the landing area, and another takes its place.

::

    word of a slot   0        1        2 ... 9             10         11 ... 15
                     length,  unique   the rest of the     location   nothing
                     opcode            80 bytes

INVARIANTS, at every instant, because SIGKILL may come between any two instructions:

- A slot is outstanding if, and only if, its ``unique`` is not zero. It is cleared right after the
  answer was written, before anything else is read or submitted. Earlier, a request could be lost;
  later, a write that was answered could be done again over a newer one.
  (tests: test_a_slot_is_cleared_after_its_answer_and_before_anything_else)
- ``location`` says where the rest of the message is: it is set to the landing area before the
  read, and to the small area when the copy is complete. (tests: test_slots_at_each_step.py)
- A page that the kernel may write a message to is in the page table of this process before the
  read (see ``populate_big_area``).
  (tests: test_where_the_kernel_writes_is_in_memory_before_the_read)

Both words are stored by one instruction. Who reads and answers is :mod:`fusefs.fuse.native`, whose
hot path uses the lists in here directly.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from .abi import IN_HEADER, IN_HEADER_LENGTH, PAGE, WRITE_DATA_OFFSET, InitReply, Opcode
from .slotmemory import BIG_BYTES, STRIDE, SlotMemory

Made = TypeVar("Made")

SLOTS = 256
AREAS = 64
"""One to land in, the others for long writes under way: 64 MiB, more than any target's window."""

RECORD_BYTES = WRITE_DATA_OFFSET
"""What lands in the slot itself."""

WORDS = STRIDE // 8
UNIQUE_WORD = 1
LOCATION_WORD = 10

IN_SMALL_AREA = 0
"""As a location; the big area ``n`` is n + 1."""

_WRITES = (Opcode.WRITE, Opcode.FALLOCATE)

RECORD = struct.Struct("4xIQ32xQI12xI4x")
"""Of a record: opcode unique offset size flags. The last three are those of READ and WRITE."""
assert RECORD.size == RECORD_BYTES  # noqa: S101


class Outstanding(NamedTuple):
    """A request that was read and is not answered."""

    slot: int
    opcode: int
    unique: int


class BySlot(dict[int, Made]):
    """What each slot has for itself, made when it is first asked for: most slots of most volumes
    are never used, and a lookup costs no more than in a list."""

    def __init__(self, make: Callable[[int], Made]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, slot: int) -> Made:
        made = self[slot] = self._make(slot)
        return made


class RequestSlots:
    """The slots in the memfd ``fd``, which belongs to this object from here on.

    One process at a time may use them. The lists and views are for the channel; others need
    ``fd``, ``init``, ``note``, ``outstanding``, ``has_unknown_outcome``, ``settle`` and ``close``.

    Raises:
        ValueError: the descriptor is something else, or slots of another version or layout, or what
            they hold contradicts itself.
    """

    def __init__(self, fd: int) -> None:
        memory = self._memory = SlotMemory(fd)
        self.count = memory.slots
        self.table = memory.table
        self.words = memory.words
        self.headers = BySlot(lambda slot: self.table[slot * STRIDE : slot * STRIDE + RECORD_BYTES])
        self.small = BySlot(memory.small_area)
        self.areas = [memory.big_area(area) for area in range(memory.areas)]
        self.claims: dict[int, int] = {}
        """The big areas of the requests that an earlier process left: slot -> area."""
        self.free = [
            slot
            for slot in range(self.count - 1, -1, -1)
            if not self.words[slot * WORDS + UNIQUE_WORD]
        ]
        for outstanding in self.outstanding():
            self._claim(outstanding.slot)
        claimed = set(self.claims.values())
        self.free_areas = [area for area in range(memory.areas - 1, -1, -1) if area not in claimed]
        self.receiving = -1
        """The slot that the next message is read into; -1 while there is none."""
        self.landing = -1
        """The landing area; -1 while there is none."""
        self.used_small = set(range(self.count))
        """Slots whose small area may have more than its first page in memory."""
        self._used_areas = set(range(memory.areas))
        self._populated: set[int] = set()
        self._is_table_populated = False

    @classmethod
    def create(cls, slots: int = SLOTS, areas: int = AREAS) -> RequestSlots:
        """Slots in a new memfd, with nothing outstanding."""
        if slots < 2 or areas < 2:
            raise ValueError("a channel needs a slot and an area to read into, and one to keep")
        created = cls(SlotMemory.create(slots, areas))
        # Nothing in there was ever touched.
        created.used_small.clear()
        created._used_areas.clear()
        return created

    def _claim(self, slot: int) -> None:
        length = IN_HEADER.unpack_from(self.table, slot * STRIDE)[0]
        location = self.words[slot * WORDS + LOCATION_WORD]
        if not IN_HEADER_LENGTH <= length <= RECORD_BYTES + BIG_BYTES:
            raise ValueError(f"request slot {slot} holds a message of {length} bytes")
        if length <= RECORD_BYTES or location == IN_SMALL_AREA:
            return
        area = location - 1
        if area >= len(self.areas) or area in self.claims.values():
            raise ValueError(f"request slot {slot} claims the payload area {area}, not its own")
        self.claims[slot] = area

    # -- for whoever starts, ends and watches workers -------------------------------------------

    @property
    def fd(self) -> int:
        """The memfd; whoever maps it again finds what is outstanding."""
        return self._memory.fd

    @property
    def init(self) -> InitReply | None:
        """What was agreed on with the kernel; None until it has asked. Set it before INIT is
        answered: INIT comes only once."""
        return self._memory.init

    @init.setter
    def init(self, reply: InitReply | None) -> None:
        self._memory.init = reply

    @property
    def note(self) -> bytes:
        """Up to 64 KiB for a successor; a kill while it is set leaves the old note."""
        return self._memory.note

    @note.setter
    def note(self, note: bytes) -> None:
        self._memory.note = note

    def outstanding(self) -> list[Outstanding]:
        """What was read and is not answered, in the order of ``unique``."""
        found = []
        for slot in range(self.count):
            if self.words[slot * WORDS + UNIQUE_WORD]:
                opcode, unique, *_ = RECORD.unpack_from(self.table, slot * STRIDE)
                found.append(Outstanding(slot, opcode, unique))
        return sorted(found, key=lambda each: each.unique)

    def has_unknown_outcome(self) -> bool:
        """Whether the outcome of a change is not known: it is outstanding, or it was given up
        (``give_up``) and the disk may still have it."""
        return self._memory.in_doubt or any(each.opcode in _WRITES for each in self.outstanding())

    def give_up(self, slot: int) -> None:
        """Before the request in the slot is answered with an error of the device: the slot will be
        free, but a change that the disk has got may still land."""
        if RECORD.unpack_from(self.table, slot * STRIDE)[0] in _WRITES:
            self._memory.in_doubt = True

    def settle(self) -> None:
        """Whatever was given up has landed by now, or never will."""
        self._memory.in_doubt = False

    # -- for the channel ------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """How many slots belong to requests now."""
        return self.count - len(self.free) - (self.receiving >= 0)

    def prepare(self) -> bool:
        """Have a slot and an area to read into, if there are; False while there are not."""
        if self.landing < 0:
            if not self.free_areas:
                return False
            self.landing = self.free_areas.pop()
            if self.landing not in self._populated:
                self._memory.populate_big_area(self.landing)
                self._populated.add(self.landing)
                self._used_areas.add(self.landing)
        if not self._is_table_populated:
            self._memory.populate_table()
            self._is_table_populated = True
        if self.receiving < 0:
            if not self.free:
                return False
            self.receiving = self.free.pop()
        self.words[self.receiving * WORDS + LOCATION_WORD] = self.landing + 1
        return True

    def small_payload(self, slot: int, size: int) -> memoryview:
        """The first bytes of the slot's small area, to copy a payload to."""
        if size > PAGE:
            self.used_small.add(slot)
        return self.small[slot][:size]

    def copy_payload(self, slot: int, size: int) -> None:
        """The payload that has landed with the message of this slot moves to its small area."""
        self.small_payload(slot, size)[:] = self.areas[self.landing][:size]
        self.words[slot * WORDS + LOCATION_WORD] = IN_SMALL_AREA

    def keep_landing(self) -> int:
        """The payload that has landed stays where it is. Returns the area, which is free again when
        it is put back into ``free_areas``."""
        area, self.landing = self.landing, -1
        return area

    def message(self, slot: int, length: int) -> memoryview:
        """A whole message of ``length`` bytes; a copy where it does not lie in one piece."""
        if length <= RECORD_BYTES:
            return self.headers[slot][:length]
        rest = self.payload(slot)[: length - RECORD_BYTES]
        return memoryview(b"".join((self.headers[slot], rest)))

    def payload(self, slot: int) -> memoryview:
        """The area where the message goes on behind the record."""
        location = self.words[slot * WORDS + LOCATION_WORD]
        return self.small[slot] if location == IN_SMALL_AREA else self.areas[location - 1]

    def trim(self) -> None:
        """Give memory back to the system: big areas that are free, and small areas of free slots
        but for their first page."""
        for area in self._used_areas.intersection(self.free_areas):
            self._memory.give_back_big(area)
            self._used_areas.discard(area)
            self._populated.discard(area)
        for slot in self.used_small.intersection(self.free):
            self._memory.give_back_small(slot)
            self.used_small.discard(slot)

    def close(self) -> None:
        """Close the descriptor and let go of the memory. Requests that are outstanding stay so for
        whoever else has the descriptor."""
        for view in (*self.headers.values(), *self.small.values(), *self.areas):
            view.release()
        self.headers.clear()
        self.small.clear()
        self.areas.clear()
        self._memory.close()
