# SPDX-License-Identifier: Apache-2.0
"""Where something stands in a file of manifests, and what is to be said about it.

A conversion keeps the meaning, or says what it could not keep and what to do; what cannot be read
at all is an error that names file, document and field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fusefs.errors import InvalidSpec

INFO = "info"
"""Good to know."""
ACTION = "action"
"""Something to do."""
LOST = "lost"
"""It has no equivalent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A field of a document; documents are counted from 1, as ``---`` separates them."""

    file: str
    document: int
    kind: str = ""
    namespace: str = ""
    name: str = ""
    field: str = ""

    def at(self, *steps: str | int) -> Place:
        """A place below this one."""
        path = self.field
        for step in steps:
            if isinstance(step, int):
                path += f"[{step}]"
            else:
                path += f".{step}" if path else step
        return replace(self, field=path)

    def __str__(self) -> str:
        who = f"{self.kind} {self.name!r}" if self.name else self.kind
        parts = [f"document {self.document}", who, self.field]
        return ", ".join(part for part in parts if part)

    def error(self, value: object, reason: str, remedy: str = "") -> InvalidSpec:
        """The error to raise about what stands here; ``value`` None shows none."""
        return InvalidSpec(f"{self.file}, {self}", value, reason, remedy=remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One thing to know, to do, or that was lost."""

    level: str
    place: Place
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}"
        return f"{text}; {self.remedy}" if self.remedy else text

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        where = self.place
        return {
            "level": self.level,
            "document": where.document,
            "kind": where.kind,
            "namespace": where.namespace,
            "name": where.name,
            "field": where.field,
            "message": self.message,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """One volume that was converted, and the objects that it is now."""

    place: Place
    source: str
    """``in-tree``, ``csi-driver-iscsi`` or ``node-manual``."""
    made: tuple[str, ...]
    """``PersistentVolume/NAME``, ``PersistentVolumeClaim/NAMESPACE/NAME``,
    ``Secret/NAMESPACE/NAME``."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "document": self.place.document,
            "kind": self.place.kind,
            "namespace": self.place.namespace,
            "name": self.place.name,
            "field": self.place.field,
            "source": self.source,
            "made": list(self.made),
        }


@dataclass(slots=True)
class Report:
    """What a conversion did."""

    file: str
    converted: list[Converted] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def info(self, place: Place, message: str, remedy: str = "") -> None:
        """Something to know; said once where it is the same."""
        self._add(INFO, place, message, remedy)

    def action(self, place: Place, message: str, remedy: str) -> None:
        """Something to do."""
        self._add(ACTION, place, message, remedy)

    def lost(self, place: Place, message: str, remedy: str) -> None:
        """Something without an equivalent."""
        self._add(LOST, place, message, remedy)

    def _add(self, level: str, place: Place, message: str, remedy: str) -> None:
        note = Note(level=level, place=place, message=message, remedy=remedy)
        if note not in self.notes:
            self.notes.append(note)

    def to_json(self) -> Mapping[str, Any]:
        """Plain values; no secret among them."""
        return {
            "file": self.file,
            "changed": bool(self.converted),
            "converted": [each.to_json() for each in self.converted],
            "notes": [each.to_json() for each in self.notes],
        }
