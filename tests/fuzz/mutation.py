# SPDX-License-Identifier: Apache-2.0
"""Inputs from seeds: flipped bits, lying lengths, splices, cuts. Fast, and the same for a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

EDGES = (0, 1, 2, 3, 4, 7, 8, 15, 16, 47, 48, 0x7F, 0x80, 0xFE, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF,
         0x10000, 0x7FFFFF, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip

Change = Callable[["Mutator", bytearray], bytearray]


class Mutator:
    """``next()`` gives the next input."""

    def __init__(self, seeds: Sequence[bytes], seed: int, longest: int) -> None:
        self._choice = random.Random(seed)
        self._seeds = list(seeds) or [b""]
        self._longest = longest

    def next(self) -> bytes:
        """A seed with one to eight changes; now and then bytes of no origin."""
        choice = self._choice
        if choice.random() < 0.02:
            return choice.randbytes(choice.randrange(self._longest))
        data = bytearray(choice.choice(self._seeds))
        for _ in range(1 + int(choice.random() ** 3 * 8)):
            data = choice.choice(_CHANGES)(self, data)
        return bytes(data[: self._longest])

    def _flip(self, data: bytearray) -> bytearray:
        if data:
            data[self._choice.randrange(len(data))] ^= 1 << self._choice.randrange(8)
        return data

    def _set(self, data: bytearray) -> bytearray:
        if data:
            data[self._choice.randrange(len(data))] = self._choice.randrange(256)
        return data

    def _lie(self, data: bytearray) -> bytearray:
        """A number of one to four bytes, as lengths and counts are, at an edge of its range."""
        width = self._choice.choice((1, 2, 3, 4))
        if len(data) >= width:
            at = self._choice.randrange(len(data) - width + 1)
            value = self._choice.choice(EDGES) & ((1 << 8 * width) - 1)
            data[at : at + width] = value.to_bytes(width, "big")
        return data

    def _off_by_some(self, data: bytearray) -> bytearray:
        if data:
            at = self._choice.randrange(len(data))
            data[at] = (data[at] + self._choice.choice((-4, -1, 1, 4))) & 0xFF
        return data

    def _cut(self, data: bytearray) -> bytearray:
        return data[: self._choice.randrange(len(data) + 1)]

    def _delete(self, data: bytearray) -> bytearray:
        at = self._choice.randrange(len(data) + 1)
        del data[at : at + 1 + self._choice.randrange(16)]
        return data

    def _insert(self, data: bytearray) -> bytearray:
        at = self._choice.randrange(len(data) + 1)
        data[at:at] = self._choice.randbytes(1 + self._choice.randrange(16))
        return data

    def _repeat(self, data: bytearray) -> bytearray:
        start = self._choice.randrange(len(data) + 1)
        piece = data[start : start + 1 + self._choice.randrange(64)]
        return data + piece * (1 + self._choice.randrange(4))

    def _splice(self, data: bytearray) -> bytearray:
        other = self._choice.choice(self._seeds)
        here = self._choice.randrange(len(data) + 1)
        return data[:here] + other[self._choice.randrange(len(other) + 1) :]


_CHANGES: tuple[Change, ...] = (
    Mutator._flip,
    Mutator._flip,
    Mutator._set,
    Mutator._lie,
    Mutator._lie,
    Mutator._off_by_some,
    Mutator._cut,
    Mutator._delete,
    Mutator._insert,
    Mutator._repeat,
    Mutator._splice,
)
