# SPDX-License-Identifier: Apache-2.0
"""GET LBA STATUS data (SBC-3 5.6.2): which blocks are mapped.

An answer may end anywhere, so whoever wants more asks again from where it ended. Units exist that
begin with another block than the one that was asked for: the answer is held against the question,
and what does not belong to it is not used.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ProtocolError
from .layout import BytesLike, Layout, reserved, uint


class ProvisioningStatus(enum.IntEnum):
    """SBC-3 table 47."""

    MAPPED = 0x0
    """Or the unit does not know."""
    DEALLOCATED = 0x1
    ANCHORED = 0x2


_HEADER = Layout("GET LBA STATUS data", uint("parameter_data_length", 32), reserved(32))
_DESCRIPTOR = Layout(
    "an LBA status descriptor",
    uint("lba", 64),
    uint("blocks", 32),
    reserved(4),
    uint("status", 4),
    reserved(24),
)

HEADER_LENGTH = 8
DESCRIPTOR_LENGTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LbaStatus:
    """A run of blocks in one state; ``status`` is a number, since reserved ones are sent too."""

    lba: int
    blocks: int
    status: int

    @property
    def deallocated(self) -> bool:
        """No storage is behind these blocks."""
        return self.status == ProvisioningStatus.DEALLOCATED


def parse_lba_status(data: BytesLike, lba: int) -> tuple[LbaStatus, ...]:
    """The runs from block ``lba`` on, without a gap; one that is cut off is left out.

    A first run that begins before ``lba`` is cut to it.

    Raises:
        ProtocolError: no header, or not one run that answers the question: units exist that tell of
            other blocks, and such an answer is no answer.
    """
    length: int = _HEADER.parse(data, minimum=4)["parameter_data_length"] + 4
    rest = bytes(data[_HEADER.size : length])
    found: list[LbaStatus] = []
    next_lba = lba
    while len(rest) >= _DESCRIPTOR.size:
        run = LbaStatus(**_DESCRIPTOR.parse(rest))
        rest = rest[_DESCRIPTOR.size :]
        end = run.lba + run.blocks
        if run.lba > next_lba or end <= next_lba or (found and run.lba != next_lba):
            break
        found.append(LbaStatus(lba=next_lba, blocks=end - next_lba, status=run.status))
        next_lba = end
    if not found:
        raise ProtocolError(f"GET LBA STATUS from block {lba} was answered without that block")
    return tuple(found)


def build_lba_status(runs: Sequence[LbaStatus]) -> bytes:
    """The whole answer."""
    body = b"".join(_DESCRIPTOR.build_from(run) for run in runs)
    return _HEADER.build({"parameter_data_length": len(body) + 4}) + body
