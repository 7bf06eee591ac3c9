# SPDX-License-Identifier: Apache-2.0
"""The declaration of a SCSI data structure, and this folder's one seam to `construct`.

T10 draws its structures as tables of bytes and bits; a module of this folder lists the same fields
in the same order, and this seam turns the list into bytes and back. The fields of one layout are
flat and their names are the attributes of the class that uses them. Reserved and obsolete bits are
``reserved(n)``: zero when built, ignored when parsed.

Targets cut structures short (an old revision of the standard had fewer fields, or the allocation
length was small). ``parse`` therefore takes what is there and reads missing bytes as zero, which
T10 defines as "not reported" in every place where this is used; a caller that needs a minimum says
so. `construct` is untyped, so it is named here only, and its errors end here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from construct import BitsInteger, BitStruct, Bytes, Bytewise, ConstructError, Flag, Padding

from ..errors import LocalProtocolError, ProtocolError

BytesLike: TypeAlias = bytes | bytearray | memoryview


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
    """Zero when built, ignored when parsed."""
    return Padding(bits)


class Layout:
    """A structure of fixed size, in bits."""

    __slots__ = ("_struct", "names", "size", "title")

    def __init__(self, title: str, *fields: Any) -> None:
        self.title = title
        self._struct: Any = BitStruct(*fields)
        self.size: int = self._struct.sizeof()
        self.names: tuple[str, ...] = tuple(f.name for f in fields if f.name)

    def build(self, values: Mapping[str, Any]) -> bytes:
        """The bytes. Raises LocalProtocolError for a value that its field cannot hold."""
        try:
            built: bytes = self._struct.build({name: values[name] for name in self.names})
        except (ConstructError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())  # construct writes several lines
            raise LocalProtocolError(f"{self.title} cannot hold a value: {reason}") from error
        return built

    def build_from(self, source: object) -> bytes:
        """The bytes, from the attributes of an object."""
        return self.build({name: getattr(source, name) for name in self.names})

    def parse(self, data: BytesLike, *, minimum: int = 0) -> dict[str, Any]:
        """The fields by name. Raises ProtocolError for fewer than ``minimum`` bytes."""
        if len(data) < minimum:
            raise ProtocolError(f"{self.title} of {len(data)} bytes, at least {minimum} are needed")
        whole = bytes(data[: self.size]).ljust(self.size, b"\0")
        try:
            parsed = self._struct.parse(whole)
        except ConstructError as error:
            raise ProtocolError(f"{self.title} cannot be read: {error}") from error
        return {name: parsed[name] for name in self.names}
