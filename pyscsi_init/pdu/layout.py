# SPDX-License-Identifier: Apache-2.0
"""The declaration of a 48-byte Basic Header Segment, and the typed seam to `construct`.

A PDU class says in order, field by field and bit by bit, what RFC 7143 section 11 draws; this
module turns that list into bytes and back. The whole header is one bit structure, so that flags,
4-bit codes and 32-bit numbers stand in one flat declaration whose names are the attributes of the
class. Reserved bits are ``reserved(n)``: zero when sent, ignored when received (RFC 7143 11);
bits that the figure prints as 1 are ``ones(n)``: one when sent, ignored when received.

`construct` is untyped, so headers meet it here only, behind two typed methods. Its errors end
here too: what does not parse is a ProtocolError, what cannot be built a LocalProtocolError. The
module knows no PDU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from construct import (
    BitsInteger,
    BitStruct,
    Bytes,
    Bytewise,
    Const,
    ConstructError,
    Flag,
    Padded,
    Padding,
    Pass,
)

from ..errors import LocalProtocolError, ProtocolError

BytesLike: TypeAlias = bytes | bytearray | memoryview

BHS_LENGTH = 48
"""RFC 7143 11.2.1: "The BHS is 48 bytes long"."""


def uint(name: str, bits: int) -> Any:
    """An unsigned big-endian field of any width."""
    return name / BitsInteger(bits)


def flag(name: str) -> Any:
    """One bit."""
    return name / Flag


def octets(name: str, count: int) -> Any:
    """Bytes that are carried as they are."""
    return name / Bytewise(Bytes(count))


def reserved(bits: int) -> Any:
    """Zero on sending, ignored on receipt."""
    return Padding(bits)


def ones(bits: int) -> Any:
    """Bits that the RFC's figure prints as 1: sent so, ignored on receipt."""
    return Padded(bits, Pass, pattern=b"\x01")


IMMEDIATE = flag("immediate")
LUN = octets("lun", 8)
INITIATOR_TASK_TAG = uint("initiator_task_tag", 32)
TARGET_TRANSFER_TAG = uint("target_transfer_tag", 32)
LENGTHS = (uint("total_ahs_length", 8), uint("data_segment_length", 24))
REQUEST_NUMBERS = (uint("cmd_sn", 32), uint("exp_stat_sn", 32))
RESPONSE_NUMBERS = (uint("stat_sn", 32), uint("exp_cmd_sn", 32), uint("max_cmd_sn", 32))

_COMPUTED = ("total_ahs_length", "data_segment_length")


class Layout:
    """The bit layout of one PDU's BHS.

    ``i_bit`` is the second bit of byte 0: ``IMMEDIATE`` where the RFC defines the I bit, and
    reserved elsewhere (so Data-Out starts with exactly 05h, SNACK with 10h).
    """

    __slots__ = ("_struct", "names")

    def __init__(self, opcode: int, *fields: Any, i_bit: Any = None) -> None:
        head = (reserved(1), reserved(1) if i_bit is None else i_bit, Const(opcode, BitsInteger(6)))
        self._struct: Any = BitStruct(*head, *fields)
        if self._struct.sizeof() != BHS_LENGTH:
            raise AssertionError(f"layout of {opcode:#04x} is {self._struct.sizeof()} bytes long")
        named = (subcon.name for subcon in (*head, *fields))
        self.names: tuple[str, ...] = tuple(n for n in named if n and n not in _COMPUTED)

    def build(self, values: Mapping[str, Any]) -> bytes:
        """The 48 bytes. Raises LocalProtocolError for a value that its field cannot hold."""
        try:
            built: bytes = self._struct.build(dict(values))
        except (ConstructError, LookupError, TypeError, ValueError) as error:
            raise LocalProtocolError(f"a value does not fit its field: {error}") from error
        return built

    def parse(self, header: BytesLike) -> tuple[dict[str, Any], int, int]:
        """The named fields, TotalAHSLength and DataSegmentLength.

        Raises ProtocolError for another length or another opcode.
        """
        if len(header) != BHS_LENGTH:
            raise ProtocolError(f"a BHS of {len(header)} bytes instead of {BHS_LENGTH}")
        try:
            parsed = self._struct.parse(bytes(header))
        except ConstructError as error:
            raise ProtocolError(f"the BHS is not of this PDU: {error}") from error
        values = {name: parsed[name] for name in self.names}
        return values, parsed["total_ahs_length"], parsed["data_segment_length"]
