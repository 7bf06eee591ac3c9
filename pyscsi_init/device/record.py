# SPDX-License-Identifier: Apache-2.0
"""What one process tells the next about a logical unit: enough to know it again, nothing to trust.

A process that takes over the I/O of a dead one logs in anew, so the same questions must be asked as
after a lost connection: is it the same unit, with the same content? The answers to hold against are
in the dead process's memory unless they were put down elsewhere in time. A record is that: plain
values, in JSON, without a secret. It is made before the write that changes it leaves, so it may say
too much (a content that is not there yet), never too little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigurationError
from .identity import ContentWitness, Identity, Possible

VERSION = 1


@dataclass(frozen=True, slots=True)
class FenceRecord:
    """The registration that keeps other nodes from writing (fence.py)."""

    key: int
    generation: int
    """PRGENERATION when it was last seen to be there."""
    persists: bool = False
    """The unit keeps it through a loss of power."""


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """A logical unit as its last user knew it; see :func:`pyscsi_init.device.open_lun`."""

    identity: Identity
    witness_bytes: int
    """How much of the start of the disk bears witness, in bytes."""
    possible: Possible | None
    """For each place that may hold a UUID, what may stand there; None where anything may."""
    fence: FenceRecord | None = None
    """None where other nodes are not kept from writing."""

    def witness(self) -> ContentWitness:
        """The content to hold the disk against."""
        return ContentWitness.remembered(self.witness_bytes, self.possible)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` takes back."""
        identity = self.identity
        return {
            "version": VERSION,
            "designators": list(identity.designators),
            "serial_number": identity.serial_number,
            "vendor": identity.vendor,
            "product": identity.product,
            "block_size": identity.block_size,
            "size_bytes": identity.size_bytes,
            "witnesses": list(identity.witnesses),
            "witness_bytes": self.witness_bytes,
            "fence": None if self.fence is None else asdict(self.fence),
            "possible": None
            if self.possible is None
            else [sorted(values, key=lambda each: each or "") for values in self.possible],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> UnitRecord:
        """Read what :meth:`to_json` made.

        Raises:
            ConfigurationError: it is none, or of another version: whoever reads it must not guess.
        """
        try:
            if values["version"] != VERSION:
                raise ConfigurationError(
                    "unit record", values["version"], f"is of another version, not {VERSION}"
                )
            possible, fence = values["possible"], values.get("fence")
            return cls(
                Identity(
                    designators=tuple(map(str, values["designators"])),
                    serial_number=str(values["serial_number"]),
                    vendor=str(values["vendor"]),
                    product=str(values["product"]),
                    block_size=int(values["block_size"]),
                    size_bytes=int(values["size_bytes"]),
                    witnesses=tuple(map(str, values["witnesses"])),
                ),
                int(values["witness_bytes"]),
                None
                if possible is None
                else tuple(
                    frozenset(None if each is None else str(each) for each in place)
                    for place in possible
                ),
                None
                if fence is None
                else FenceRecord(
                    key=int(fence["key"]),
                    generation=int(fence["generation"]),
                    persists=bool(fence.get("persists")),
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(values, (str, bytes)):
                remedy = "it is text: give what json.loads() makes of it"
            else:
                remedy = "give what to_json() gave; without it the unit is opened as a new one"
            reason = f"cannot be read ({type(error).__name__}: {error})"
            raise ConfigurationError("unit record", None, reason, remedy) from error
