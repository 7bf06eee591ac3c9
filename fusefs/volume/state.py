# SPDX-License-Identifier: Apache-2.0
"""What is written down about a volume, and how it survives being written.

A state file is the record of an intention: each phase is written before the step that it names, so
that whoever reads the file after a crash knows what to look for in the kernel's tables and what to
take down. It never says that something exists; only the kernel says that. It is versioned, replaced
whole (temporary file, fsync, rename, fsync of the directory) and holds no secret.

It knows nothing of how the steps are done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fusefs.errors import InvalidSpec, NotAllowed
from fusefs.process.pids import WorkerIdentity
from fusefs.spec import VolumeSpec
from fusefs.volume.locks import lock_file, remove_free_lock
from pyscsi_init.errors import ConfigurationError

STATE_VERSION = 1

PHASES = ("logging-in", "attaching", "attached", "formatting", "mounting", "mounted", "detaching")
"""In the order of a life. ``attached`` and ``mounted`` are at rest; the others are on the way, and
a volume that is found in one of them with nobody holding its lock is a leftover."""


class StateUnreadable(Exception):
    """A state file that is damaged, or of another version; says which and why."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A bind mount of the volume: of its file system into another directory, or of the node of its
    loop device onto a file."""

    directory: str
    """Where; for a device a file."""
    read_only: bool
    device: bool = False
    made: bool = False
    """We made the directory or file for it, so it goes with it."""
    pending: bool = False
    """On its way there: nobody was told yet that it is."""
    note: str = ""
    """What the front door wants to find again; a second bind with another note is another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeState:
    """One volume on this node."""

    spec: VolumeSpec
    phase: str
    boot_id: str
    worker: WorkerIdentity | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the worker said when it was ready: size, identity, session."""
    loop: Mapping[str, Any] = field(default_factory=dict)
    """The attachment, as fusefs.host.records.LoopDevice has it; empty where there is none."""
    mountpoint: str = ""
    binds: tuple[Bind, ...] = ()
    once: bool = False
    """It lives and dies where it is mounted first: nobody will ask for this name again."""

    @property
    def name(self) -> str:
        return self.spec.name

    def with_(self, **changes: Any) -> VolumeState:
        """A copy with other values."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "spec": self.spec.to_json(),
            "phase": self.phase,
            "boot_id": self.boot_id,
            "worker": None
            if self.worker is None
            else {"pid": self.worker.pid, "start_time": self.worker.start_time},
            "facts": dict(self.facts),
            "loop": dict(self.loop),
            "mountpoint": self.mountpoint,
            "binds": [asdict(bind) for bind in self.binds],
            "once": self.once,
        }

    @classmethod
    def from_json(cls, values: Any) -> VolumeState:
        """Read what :meth:`to_json` made.

        Raises:
            StateUnreadable: another version, or not a state at all.
        """
        if not isinstance(values, dict):
            raise StateUnreadable("is not a JSON object")
        if values.get("version") != STATE_VERSION:
            raise StateUnreadable(
                f"has version {values.get('version')!r}, this program reads {STATE_VERSION}"
            )
        try:
            worker = values["worker"]
            if values["phase"] not in PHASES:
                raise StateUnreadable(f"has the unknown phase {values['phase']!r}")
            return cls(
                spec=VolumeSpec.from_json(values["spec"]),
                phase=values["phase"],
                boot_id=str(values["boot_id"]),
                worker=None
                if worker is None
                else WorkerIdentity(int(worker["pid"]), int(worker["start_time"])),
                facts=dict(values["facts"]),
                loop=dict(values["loop"]),
                mountpoint=str(values["mountpoint"]),
                binds=tuple(_bind(bind) for bind in values["binds"]),
                once=bool(values.get("once", False)),
            )
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            ConfigurationError,
            InvalidSpec,
        ) as error:
            raise StateUnreadable(f"is damaged: {error!r}") from error


def _bind(values: Mapping[str, Any]) -> Bind:
    return Bind(
        directory=str(values["directory"]),
        read_only=bool(values["read_only"]),
        device=bool(values.get("device", False)),
        made=bool(values.get("made", False)),
        pending=bool(values.get("pending", False)),
        note=str(values.get("note", "")),
    )


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace ``path`` by ``document`` so that a reader, and a reboot, sees the old or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    # Its lock says that it has a writer, also to who cannot see the process; and two of one number,
    # in two process namespaces, do not meet in it.
    descriptor = lock_file(temporary)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.ftruncate(descriptor, 0)
            json.dump(document, stream, indent=1, sort_keys=True)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def clear_unfinished(directory: Path) -> None:
    """Remove what :func:`write_json` was writing there when its writer died. Blocks."""
    for file in directory.glob(".*.new"):
        remove_free_lock(file)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_file(path: Path) -> bool:
    """Remove a file of ours for good; whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    _sync_directory(path.parent)
    return True


def save_state(path: Path, state: VolumeState) -> None:
    """Write a volume's state."""
    write_json(path, state.to_json())


def load_state(path: Path) -> VolumeState | None:
    """Read a volume's state; None where there is none.

    Raises:
        StateUnreadable: there is one and it cannot be used.
        NotAllowed: the directory is another user's, so whether there is one cannot be seen.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except PermissionError as fault:
        raise not_for_others(path.parent.parent) from fault
    except (OSError, UnicodeDecodeError) as error:
        raise StateUnreadable(f"cannot be read: {error}") from error
    try:
        return VolumeState.from_json(json.loads(text))
    except ValueError as error:
        raise StateUnreadable(f"is no JSON: {error}") from error


def not_for_others(volumes: Path) -> NotAllowed:
    """The error of who is not root, and looks into the directory ``volumes``."""
    return NotAllowed(
        "look at the volumes of this host", f"{volumes} is root's alone", remedy="run it as root"
    )


def load_understood(path: Path) -> VolumeState | None:
    """A volume's state, or as much of one that cannot be used as tells which LUN it has, where that
    is and who serves it: newer code may have written it, and its volume may be alive.

    Raises:
        StateUnreadable: it does not say even that.
    """
    try:
        return load_state(path)
    except StateUnreadable as problem:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return _understood(values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigurationError):
            raise problem from None


def _understood(values: Mapping[str, Any]) -> VolumeState:
    known = {spec_field.name for spec_field in fields(VolumeSpec)}
    said = {name: value for name, value in values["spec"].items() if name in known}
    try:
        spec = VolumeSpec.from_json(said)
    except (InvalidSpec, TypeError):
        spec = VolumeSpec(name=str(said["name"]), url=str(said["url"]))
    worker, facts = values.get("worker"), values.get("facts")
    identity = facts.get("identity") if isinstance(facts, dict) else None
    return VolumeState(
        spec=spec,
        phase=values["phase"] if values.get("phase") in PHASES else "attached",
        boot_id=str(values.get("boot_id") or boot_id()),
        worker=WorkerIdentity(int(worker["pid"]), int(worker["start_time"])) if worker else None,
        facts={"identity": identity} if isinstance(identity, dict) else {},
        mountpoint=str(values.get("mountpoint") or ""),
    )


def placeholder_state(name: str) -> VolumeState:
    """What stands in for a state file that cannot be read: enough to find the pieces by path."""
    spec = VolumeSpec(name=name, url="iscsi://unknown.invalid/iqn.1970-01.invalid:unknown/0")
    return VolumeState(spec=spec, phase="detaching", boot_id=boot_id())


def boot_id() -> str:
    """The identity of this boot: what was mounted in another one is not there any more."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
