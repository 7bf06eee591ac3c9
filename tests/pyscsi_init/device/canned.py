# SPDX-License-Identifier: Apache-2.0
"""A unit made of canned answers, for step sequences: no session, no time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pyscsi_init.device.steps import Command, Outcome, Pause, ResetUnit, Step, Steps
from pyscsi_init.scsi import Status, build_sense

T = TypeVar("T")

INQUIRY, READ_CAPACITY_10, READ_CAPACITY_16 = 0x12, 0x25, 0x9E
MODE_SENSE_6, MODE_SENSE_10, TEST_UNIT_READY, READ_10 = 0x1A, 0x5A, 0x00, 0x28


def check(key: int, asc: int, ascq: int = 0, *, deferred: bool = False) -> Outcome:
    """CHECK CONDITION with this sense."""
    return Outcome(
        Status.CHECK_CONDITION, bytes(build_sense(key, asc, ascq, deferred=deferred)), b""
    )


NOT_SUPPORTED = check(5, 0x20)
INVALID_FIELD = check(5, 0x24)
POWER_ON = check(6, 0x29)


def inquiry_data(device_type: int = 0, qualifier: int = 0, **fields: bytes) -> bytes:
    """36 bytes of standard INQUIRY data."""
    head = bytes([qualifier << 5 | device_type, 0, 5, 2, 31, 0, 0, 2])
    return (
        head
        + fields.get("vendor", b"MAKER").ljust(8)
        + fields.get("product", b"DISK").ljust(16)
        + b"1.0 "
    )


def page(code: int, payload: bytes) -> bytes:
    """A VPD page."""
    return bytes([0, code]) + len(payload).to_bytes(2, "big") + payload


def naa(number: int) -> bytes:
    """VPD 83h with one NAA designator of the logical unit."""
    return page(0x83, bytes([0x01, 0x03, 0, 8]) + (0x6 << 60 | number).to_bytes(8, "big"))


def capacity_10(blocks: int, size: int = 512) -> bytes:
    return (min(blocks, 1 << 32) - 1).to_bytes(4, "big") + size.to_bytes(4, "big")


def capacity_16(blocks: int, size: int = 512, *, flags: int = 0) -> bytes:
    return (
        (blocks - 1).to_bytes(8, "big") + size.to_bytes(4, "big") + bytes([0, 0, flags]) + bytes(17)
    )


class Unit:
    """Answers by operation code, or by page; what it does not know is an illegal request.

    ``first`` is said before anything else, one entry a command: unit attentions and the like.
    """

    def __init__(self, blocks: int = 2048, size: int = 512) -> None:
        self.size = size
        self.standard = inquiry_data()
        self.pages: dict[int, bytes | Outcome] = {
            0x00: page(0x00, bytes([0x00, 0x80, 0x83])),
            0x80: page(0x80, b"SER-1"),
            0x83: naa(1),
        }
        self.answers: dict[int, Any] = {
            TEST_UNIT_READY: Outcome(),
            READ_CAPACITY_10: capacity_10(blocks, size),
            READ_CAPACITY_16: capacity_16(blocks, size),
        }
        self.content = bytearray(min(blocks * size, 1 << 17))
        self.first: list[Outcome] = []
        self.log: list[Step] = []

    def perform(self, step: Step) -> Outcome:
        """The outcome of a step."""
        self.log.append(step)
        if not isinstance(step, Command):
            return Outcome()
        if self.first:
            return self.first.pop(0)
        opcode = step.cdb[0]
        answer: Any
        if opcode == INQUIRY:
            answer = (
                self.pages.get(step.cdb[2], INVALID_FIELD) if step.cdb[1] & 1 else self.standard
            )
        elif opcode == READ_10 and opcode not in self.answers:
            lba, blocks = int.from_bytes(step.cdb[2:6], "big"), int.from_bytes(step.cdb[7:9], "big")
            answer = bytes(self.content[lba * self.size : (lba + blocks) * self.size])
        else:
            answer = self.answers.get(opcode, NOT_SUPPORTED)
        if callable(answer):
            answer = answer(step)
        if isinstance(answer, Outcome):
            return answer
        return Outcome(data=bytes(answer[: step.data_in_length]))

    def run(self, steps: Steps[T]) -> T:
        """Drive a sequence to its end."""
        try:
            step = next(steps)
            while True:
                step = steps.send(self.perform(step))
        except StopIteration as stop:
            value: T = stop.value
            return value

    @property
    def sent(self) -> list[int]:
        """The operation codes so far."""
        return [step.cdb[0] for step in self.log if isinstance(step, Command)]

    @property
    def pauses(self) -> list[float]:
        return [step.seconds for step in self.log if isinstance(step, Pause)]

    @property
    def resets(self) -> int:
        return sum(isinstance(step, ResetUnit) for step in self.log)


Change = Callable[[Unit], None]
