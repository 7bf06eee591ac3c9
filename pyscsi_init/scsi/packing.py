# SPDX-License-Identifier: Apache-2.0
"""Precompiled CDB formats.

A CDB is made for every I/O, so its bytes come from one precompiled ``struct.Struct`` and not from
a declaration that is walked. The only thing added is that a value which does not fit is the
caller's error, in this package's terms, and that a CDB cannot be packed with a wrong length.
"""

from __future__ import annotations

import struct

from ..errors import LocalProtocolError


class CdbFormat:
    """One CDB layout: ``pack(opcode, ...)`` gives its bytes."""

    __slots__ = ("_pack", "title")

    def __init__(self, title: str, length: int, layout: str) -> None:
        compiled = struct.Struct(">" + layout)
        if compiled.size != length:
            raise AssertionError(f"layout of {title} is {compiled.size} bytes long, not {length}")
        self.title = title
        self._pack = compiled.pack

    def pack(self, *fields: int) -> bytes:
        """The CDB. Raises LocalProtocolError for a value that its field cannot hold."""
        try:
            return self._pack(*fields)
        except struct.error as error:
            raise LocalProtocolError(f"{self.title} cannot hold a value: {error}") from error
