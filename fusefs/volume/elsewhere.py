# SPDX-License-Identifier: Apache-2.0
"""What is attached on this node under other run directories, from records in the state directory.

Two run directories over one state directory are one initiator: one name, one fence key, one ISID
for each volume. A target cannot tell them apart, so nothing there keeps a managed plugin, which has
a run directory of its own, and a command on the host from having one unit twice. Each volume that
is admitted therefore leaves a record, named after its run directory's inode, for the others to see.

A record says nothing after its volume has ended, however it ended: one is alive only as long as its
loop device is attached or its worker lives. Everything here blocks, and whoever reads the records
or writes one anew holds the lock that lies beside them.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from fusefs.errors import VolumeError
from fusefs.host import LoopDevice
from fusefs.process.pids import is_alive
from fusefs.volume.paths import VolumePaths, run_id
from fusefs.volume.state import StateUnreadable, VolumeState, boot_id, write_json

_VERSION = 1

_YOUNG_S = 120.0
"""From the admission to a loop device that is written down takes one call of the host, which has a
limit far below. So long a worker of another PID namespace, of whom nothing can be seen, counts."""


@dataclass(frozen=True, slots=True)
class Record:
    """One volume of some run directory."""

    path: Path
    run: str
    """The run directory, as its own processes name it."""
    pid_namespace: int
    state: VolumeState

    def loop_among(self, loops: list[LoopDevice]) -> LoopDevice | None:
        """Its loop device, where that is still attached."""
        if self.state.loop:
            known = LoopDevice(**self.state.loop)
            return next((each for each in loops if each.same_attachment(known)), None)
        # Its command may have died before it could write the device down.
        file = str(VolumePaths(Path(self.run, "volumes", self._directory_name)).file)
        return next((each for each in loops if each.backing_file == file), None)

    @property
    def _directory_name(self) -> str:
        return self.path.name.partition("-")[2].removesuffix(".json")

    def is_alive(self, loops: list[LoopDevice]) -> bool:
        """Whether anything of the volume is left that could reach its unit."""
        if self.state.boot_id != boot_id():
            return False
        if self.loop_among(loops) is not None:
            return True
        if self.pid_namespace == _pid_namespace():
            return self.state.worker is not None and is_alive(self.state.worker)
        if self.state.loop:
            return False
        return time.time() - self.path.stat().st_mtime < _YOUNG_S

    def with_present_size(self, loops: list[LoopDevice]) -> VolumeState:
        """Its state with the size that its device has now; it may have grown."""
        device, identity = self.loop_among(loops), self.state.facts.get("identity")
        if device is None or not isinstance(identity, dict):
            return self.state
        grown = {**identity, "size_bytes": device.size_bytes}
        return self.state.with_(facts={**self.state.facts, "identity": grown})


def write_record(paths: VolumePaths, state: VolumeState) -> None:
    """Write down that a volume is admitted, or has its loop device; nothing where ``paths`` belong
    to no state directory."""
    record = paths.record
    if record is not None:
        write_json(
            record,
            {
                "version": _VERSION,
                "run": str(paths.run),
                "pid_namespace": _pid_namespace(),
                "state": state.to_json(),
            },
        )


def write_missing_record(paths: VolumePaths, state: VolumeState) -> None:
    """Of a volume that older code attached, which left none."""
    record = paths.record
    if record is not None and not record.exists():
        write_record(paths, state)


def remove_record(paths: VolumePaths) -> None:
    """The volume has ended."""
    record = paths.record
    if record is not None:
        record.unlink(missing_ok=True)


def others(attached: Path, run: Path, loops: list[LoopDevice]) -> list[Record]:
    """The records of all other run directories whose volumes live; those of dead ones are removed.

    Raises:
        VolumeError: one cannot be read, so it is not known what it says.
    """
    ours = f"{run_id(run)}-"
    found = []
    for path in sorted(attached.glob("*.json")):
        if path.name.startswith(ours):
            continue
        try:
            record = _load(path)
            if record.is_alive(loops):
                found.append(record)
            else:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue  # its volume has ended since we looked
    return found


def _load(path: Path) -> Record:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        _check_version(values["version"])
        state = VolumeState.from_json(values["state"])
        if state.loop:
            LoopDevice(**state.loop)
        return Record(path, str(values["run"]), int(values["pid_namespace"]), state)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, StateUnreadable) as error:
        raise VolumeError(
            f"what is attached on this node under another run directory cannot be read from "
            f"{path} ({error!r}), so nothing can be attached without the risk of having it twice",
            remedy="remove that file when nothing is attached under another run directory",
        ) from error


def _check_version(version: object) -> None:
    if version != _VERSION:
        raise StateUnreadable(f"has version {version!r}, this program reads {_VERSION}")


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
