# SPDX-License-Identifier: Apache-2.0
"""Who made each Mount, and whether it had its answer: what use counts alone cannot tell.

The volume layer counts users. Two things of this protocol need more. An engine whose connection
breaks before the answer asks again with the same ID, and that must not count twice; but a Mount
with the ID of a running container, as `docker cp` sends it, must. And an engine that dies gives
nothing back of what it took. So for each Mount it is noted which process asked and whether it was
answered, in a file that survives this process and, like every use, no reboot.

A process is ``PID:START``, which no other process has on the same boot; empty where it is not seen,
as from inside another PID namespace. Everything here blocks, shortly.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusefs.spec import volume_dir_name
from fusefs.volume.paths import make_private_directory
from fusefs.volume.state import boot_id, clear_unfinished, write_json

log = logging.getLogger("fusefs.docker")

_VERSION = 1
_PROCESS = re.compile(r"([0-9]{1,10}:[0-9]{1,20})?", re.ASCII)
ASK_AGAIN_SECONDS = 35.0
"""dockerd asks again for 30 s where a connection broke; until then a call that an earlier process
of ours died over is taken for one that is still to come, and later never."""
ENGINE = "dockerd"
"""The name of the process whose containers the Docker API lists; Podman's it does not know."""


def process_of(pid: int) -> str:
    """``PID:START`` of a process; empty where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return f"{pid}:{int(fields[19])}" if fields[0] not in (b"Z", b"X") else ""


def is_alive(process: str) -> bool:
    """Whether ``PID:START`` still runs; one that is not known counts as alive."""
    pid, _, _ = process.partition(":")
    return not process or process_of(int(pid)) == process


def name_of(process: str) -> str:
    """What the process calls itself; empty where it is not seen."""
    pid, _, _ = process.partition(":")
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip() if pid else ""
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Call:
    """One Mount that was not given back."""

    id: str
    caller: str
    """The process that asked."""
    name: str
    """What that process calls itself."""
    plugin: str
    """Our process that took the call."""
    answered: bool = False

    @property
    def outlived_us(self) -> bool:
        """Whether the process of ours that took it is dead. Its Unmount may have been lost: dockerd
        gives one up for which it found nobody."""
        return not is_alive(self.plugin)

    @property
    def was_cut_off(self) -> bool:
        """Whether our process died over it, so that nobody knows if it was answered."""
        return not self.answered and self.outlived_us

    @property
    def is_engines(self) -> bool:
        """Whether a Docker Engine made it, so that the Docker API knows what it was for."""
        return self.name == ENGINE

    @property
    def is_orphan(self) -> bool:
        """Whether the engine that made it is gone: it will give nothing back of its own accord."""
        return self.is_engines and not is_alive(self.caller)


class Callers:
    """The notes of one run directory, one file for each volume."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._plugin = process_of(os.getpid())
        clear_unfinished(directory)
        self._told: set[tuple[Path, str]] = set()
        self.begun = 0
        """How many Mounts Docker Engines have begun with this process."""

    def volumes(self) -> list[str]:
        """Every volume of which something is noted."""
        found = []
        for file in sorted(self._directory.glob("*.json")):
            if file.name.startswith("."):
                continue
            values = self._read(file)
            if values is not None:
                found.append(str(values["volume"]))
        return found

    def is_mounting(self) -> bool:
        """Whether a Mount is under way in this process, of any volume."""
        return any(
            not call.answered and call.plugin == self._plugin
            for volume in self.volumes()
            for call in self.calls(volume)
        )

    def calls(self, volume: str) -> list[Call]:
        """The Mounts of a volume that were not given back, the oldest first."""
        values = self._read(self._file(volume))
        return values["calls"] if values else []

    def begin(self, volume: str, id_: str, caller: str) -> None:
        """Note a Mount that is about to be made."""
        call = Call(id_, caller, name_of(caller), self._plugin)
        self.begun += call.is_engines
        self._write(volume, [*self.calls(volume), call])

    def answered(self, volume: str, id_: str) -> None:
        """Note that the oldest open Mount of ours with this ID has its answer."""
        calls = self.calls(volume)
        for index, call in enumerate(calls):
            if call.id == id_ and not call.answered and call.plugin == self._plugin:
                calls[index] = replace(call, answered=True)
                self._write(volume, calls)
                return

    def drop(self, volume: str, id_: str) -> None:
        """Forget the newest Mount with this ID: it was undone or given back."""
        calls = self.calls(volume)
        for index in reversed(range(len(calls))):
            if calls[index].id == id_:
                del calls[index]
                self._write(volume, calls)
                return

    def discard(self, volume: str, gone: Iterable[Call]) -> None:
        """Forget just these."""
        calls = self.calls(volume)
        for call in gone:
            if call in calls:
                calls.remove(call)
        self._write(volume, calls)

    def _file(self, volume: str) -> Path:
        return self._directory / f"{volume_dir_name(volume)}.json"

    def _write(self, volume: str, calls: list[Call]) -> None:
        file = self._file(volume)
        if not calls:
            file.unlink(missing_ok=True)
            return
        make_private_directory(self._directory)
        document = {
            "version": _VERSION,
            "boot_id": boot_id(),
            "volume": volume,
            "calls": [
                {
                    "id": call.id,
                    "caller": call.caller,
                    "name": call.name,
                    "plugin": call.plugin,
                    "answered": call.answered,
                }
                for call in calls
            ],
        }
        write_json(file, document)

    def _read(self, file: Path) -> dict[str, Any] | None:
        """What is noted in a file; None where that is nothing, or worth nothing. What cannot be
        ours is told of once, and ignored."""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if values["version"] != _VERSION or values["boot_id"] != boot_id():
                return None
            volume, calls = values["volume"], values["calls"]
            if not isinstance(volume, str) or not isinstance(calls, list):
                raise TypeError("volume is no text, or calls no list")  # noqa: TRY301
        except OSError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            self._tell(file, f"it cannot be read ({error!r})")
            return None
        found = []
        for each in calls:
            call = _call(each)
            if call is None:
                self._tell(file, "one of its calls is malformed")
            else:
                found.append(call)
        return {"volume": volume, "calls": found}

    def _tell(self, file: Path, why: str) -> None:
        if (file, why) not in self._told:
            self._told.add((file, why))
            log.warning("%s: %s: ignored; what it counted is kept until it is released", file, why)


def _call(values: object) -> Call | None:
    """The call of a note; None where a value is not of its kind."""
    if not isinstance(values, dict):
        return None
    texts = [values.get(key) for key in ("id", "caller", "name", "plugin")]
    answered = values.get("answered")
    if not all(isinstance(text, str) for text in texts) or not isinstance(answered, bool):
        return None
    id_, caller, name, plugin = map(str, texts)
    if not id_ or not _PROCESS.fullmatch(caller) or not _PROCESS.fullmatch(plugin):
        return None
    return Call(id_, caller, name, plugin, answered)
