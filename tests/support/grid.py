# SPDX-License-Identifier: Apache-2.0
"""Cells of an interoperability grid: what is offered, what the target has, and what must come out.

An axis is a name and its values; a cell takes one value of each. The full product is for long runs;
:func:`covering` picks few cells in which every three values of any three axes meet.

What must come out is computed here from RFC 7143 section 13 in its plainest form, not with the code
under test.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyscsi_init import Settings

PATIENT = {
    "noop_interval": 0,
    "command_timeout": 300,
    "login_timeout": 60,
    "max_transfer_bytes": 2 << 20,
}

Row = tuple[int, ...]
"""One index for each axis."""
Combination = tuple[tuple[int, int], ...]
"""Axes and the index on each of them."""

BURSTS = ((512, 512), (4096, 8192), (65536, 262144), (1020, 5000), (262144, 1048576))
"""FirstBurstLength and MaxBurstLength."""
DIGESTS = (("None",), ("CRC32C",), ("CRC32C", "None"), ("None", "CRC32C"))

AXES: dict[str, tuple[Any, ...]] = {
    "target": ("open", "closed", "small"),
    "initial_r2t": (False, True),
    "immediate_data": (True, False),
    "header_digest": DIGESTS,
    "data_digest": DIGESTS,
    "bursts": BURSTS,
    "max_recv_data_segment_length": (512, 4096, 8192, 262144),
    "block_size": (512, 4096),
    "error_recovery_level": (0,),
}
"""What the initiator offers; ``target`` is one of :data:`TARGETS`, by name."""


@dataclass(frozen=True, slots=True)
class TargetSide:
    """What a target is set to."""

    initial_r2t: bool
    immediate_data: bool
    first_burst_length: int
    max_burst_length: int
    max_recv_data_segment_length: int
    """Only where the target declares it; 8192 holds otherwise (RFC 7143 13.12)."""
    error_recovery_level: int = 0

    def keys(self) -> dict[str, object]:
        """The RFC's names and values."""
        return {
            "InitialR2T": yes_no(self.initial_r2t),
            "ImmediateData": yes_no(self.immediate_data),
            "MaxBurstLength": self.max_burst_length,
            "FirstBurstLength": self.first_burst_length,
        }


TARGETS = {
    "open": TargetSide(False, True, 262144, 1048576, 262144),
    "closed": TargetSide(True, False, 65536, 262144, 8192),
    "small": TargetSide(False, True, 2048, 16384, 1024),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination; the fields are the axes."""

    target: str
    initial_r2t: bool
    immediate_data: bool
    header_digest: tuple[str, ...]
    data_digest: tuple[str, ...]
    bursts: tuple[int, int]
    max_recv_data_segment_length: int
    block_size: int
    error_recovery_level: int = 0

    def __str__(self) -> str:
        digests = (f"{'+'.join(digest)}" for digest in (self.header_digest, self.data_digest))
        return "-".join(
            (
                self.target,
                "r2t" if self.initial_r2t else "unsolicited",
                "immediate" if self.immediate_data else "separate",
                *digests,
                *map(str, self.bursts),
                str(self.max_recv_data_segment_length),
                str(self.block_size),
                f"erl{self.error_recovery_level}",
            )
        )

    def settings(self, **more: Any) -> Settings:
        """The offers of this cell. A busy machine may take its time: nothing here is about it."""
        first, longest = self.bursts
        return Settings(
            initial_r2t=self.initial_r2t,
            immediate_data=self.immediate_data,
            header_digest=self.header_digest,
            data_digest=self.data_digest,
            first_burst_length=first,
            max_burst_length=longest,
            max_recv_data_segment_length=self.max_recv_data_segment_length,
            error_recovery_level=self.error_recovery_level,
            **{**PATIENT, **more},
        )

    def expected(self) -> dict[str, object]:
        """What must be in force, by the result functions of RFC 7143 13.1 and 13.10 to 13.14, when
        the target takes every digest; names are those of the session's parameters."""
        there = TARGETS[self.target]
        first, longest = self.bursts
        longest = min(longest, there.max_burst_length)
        return {
            "initial_r2t": self.initial_r2t or there.initial_r2t,
            "immediate_data": self.immediate_data and there.immediate_data,
            "header_digest": self.header_digest[0] == "CRC32C",
            "data_digest": self.data_digest[0] == "CRC32C",
            "max_burst_length": longest,
            # RFC 7143 13.14: never larger than MaxBurstLength.
            "first_burst_length": min(first, there.first_burst_length, longest),
            "max_recv_data_segment_length": self.max_recv_data_segment_length,
            "error_recovery_level": min(self.error_recovery_level, there.error_recovery_level),
        }


def yes_no(value: bool) -> str:
    """A boolean as a text key has it."""
    return "Yes" if value else "No"


def make_cell(axes: Mapping[str, Sequence[Any]], row: Row) -> Cell:
    """The cell that a row of indexes stands for."""
    return Cell(**{name: values[at] for (name, values), at in zip(axes.items(), row, strict=True)})


def every_cell(axes: Mapping[str, Sequence[Any]] = AXES) -> list[Cell]:
    """The full product."""
    ranges = [range(len(values)) for values in axes.values()]
    return [make_cell(axes, row) for row in itertools.product(*ranges)]


def combinations(sizes: Sequence[int], strength: int = 3) -> Iterator[Combination]:
    """Every ``strength`` values of different axes."""
    for chosen in itertools.combinations(range(len(sizes)), strength):
        for values in itertools.product(*(range(sizes[axis]) for axis in chosen)):
            yield tuple(zip(chosen, values, strict=True))


def covering(axes: Mapping[str, Sequence[Any]] = AXES, *, seed: int = 7) -> list[Cell]:
    """Cells in which every three values of any three axes meet; the same in every run."""
    sizes = [len(values) for values in axes.values()]
    choice = random.Random(seed)
    missing = dict.fromkeys(combinations(sizes))
    cells = []
    while missing:
        seen = next(iter(missing))
        rows = [_row_with(seen, sizes, choice) for _ in range(24)]
        best = max(rows, key=lambda row: sum(each in missing for each in _met_by(row)))
        for each in _met_by(best):
            missing.pop(each, None)
        cells.append(make_cell(axes, best))
    return cells


def _row_with(seen: Combination, sizes: Sequence[int], choice: random.Random) -> Row:
    row = [choice.randrange(size) for size in sizes]
    for axis, value in seen:
        row[axis] = value
    return tuple(row)


def _met_by(row: Row) -> Iterator[Combination]:
    return itertools.combinations(enumerate(row), 3)
