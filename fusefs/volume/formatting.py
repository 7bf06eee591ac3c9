# SPDX-License-Identifier: Apache-2.0
"""When mkfs that was cut off may be done again, and the notes that this node keeps for it.

The order of a format: the LUN is read as blank; a note of the mark's UUID is written here, for
good; the mark is written on the LUN, for good; mkfs; what it wrote is flushed; what is left of the
mark is taken away; the note is removed; only then anything is mounted. So

    a note, no mark             mkfs had not begun, or all is done: the note says nothing, and goes
    a mark and a file system    mkfs had ended: the mark goes, the file system is taken
    a mark and no file system   mkfs was cut off, if the rest looks so (host/format_mark.py)

In the last case the LUN is wiped and formatted again, but only by a node that knows that nobody
runs that mkfs any more: the one that has a note of this very UUID, for this very unit (its own mkfs
ended with the loop device that it wrote to, and it has every LUN once only), or one that holds the
LUN by a persistent reservation and had not registered before, so that the target refuses the writes
of all others (and the fence waits for those that lay in it, when it takes the LUN over from a
node). A key that was found registered proves nothing: two machines with one initiator name have one
key, and the other may be in its mkfs.

A LUN that is attached for writing without being mounted is handed out for good: whoever writes to
it may leave most of the mark. So the mark is taken away before (:meth:`Notes.may_clear`).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusefs.host import FormatMark
from fusefs.volume.paths import make_private_directory
from fusefs.volume.state import VolumeState, remove_file, write_json
from fusefs.volume_errors import FormatUnfinished

_VERSION = 1


def new_mark(fstype: str) -> FormatMark:
    """A mark that no other is like."""
    return FormatMark(str(uuid.uuid4()), fstype, os.uname().nodename)


@dataclass(frozen=True, slots=True)
class Notes:
    """The notes in a directory; without one there are none. All methods block."""

    directory: Path | None

    def write(self, mark: FormatMark, state: VolumeState) -> None:
        """Note that this node begins to format the unit of ``state``. What was noted of earlier
        attempts on the same unit goes."""
        if self.directory is None:
            return
        make_private_directory(self.directory)
        note = {
            "version": _VERSION,
            "uuid": mark.uuid,
            "fstype": mark.fstype,
            "volume": state.name,
            "target": state.spec.address.target,
            **_unit(state),
        }
        self.remove_of(state, but=mark)
        write_json(self._path(mark), note)

    def check_may_wipe(self, device: str, mark: FormatMark, state: VolumeState) -> None:
        """Whether mkfs that was cut off there is over for certain.

        Raises:
            FormatUnfinished: it may still go on, on another node.
        """
        fence = _fence(state)
        if fence.get("held") is True and fence.get("found") is False:
            return
        if not self._has(mark, state):
            raise FormatUnfinished(device, fstype=mark.fstype, node=mark.node)

    def may_clear(self, mark: FormatMark, state: VolumeState) -> bool:
        """Whether the mark may be taken from a unit that is about to be handed out for writing.

        The reservation is enough, also where it was found: who still runs mkfs with the same key
        loses the file system to whoever writes here, with or without a mark.
        """
        return _fence(state).get("held") is True or self._has(mark, state)

    def _has(self, mark: FormatMark, state: VolumeState) -> bool:
        note = _read(self._path(mark)) if self.directory is not None else {}
        return note.get("uuid") == mark.uuid and _same_unit(note, _unit(state))

    def remove(self, mark: FormatMark) -> None:
        """The format has ended."""
        if self.directory is not None:
            remove_file(self._path(mark))

    def remove_of(self, state: VolumeState, *, but: FormatMark | None = None) -> None:
        """No format of the unit of ``state`` is going on, unless it is that of ``but``."""
        if self.directory is None:
            return
        kept = None if but is None else but.uuid
        for path in self.directory.glob("*.json"):
            note = _read(path)
            if note.get("uuid") not in (None, kept) and _same_unit(note, _unit(state)):
                remove_file(path)

    def _path(self, mark: FormatMark) -> Path:
        # The UUID may have been read from a disk.
        return Path(self.directory or "", f"{uuid.UUID(mark.uuid)}.json")


def _fence(state: VolumeState) -> Mapping[str, Any]:
    fence = state.facts.get("fence")
    return fence if isinstance(fence, dict) else {}


def _unit(state: VolumeState) -> dict[str, Any]:
    identity = state.facts.get("identity")
    identity = identity if isinstance(identity, dict) else {}
    return {"unit": identity.get("key"), "block_size": identity.get("block_size")}


def _same_unit(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in ("unit", "block_size"))


def _read(path: Path) -> Mapping[str, Any]:
    """A note; empty where there is none, or another version wrote it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if isinstance(values, dict) and values.get("version") == _VERSION:
        return values
    return {}
