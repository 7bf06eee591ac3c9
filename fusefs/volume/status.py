# SPDX-License-Identifier: Apache-2.0
"""What a volume is at this moment: its state file held against the kernel's tables and its worker.

The file says what was intended; a process, a loop device and a mount say what there is. Where they
disagree the volume has failed, and the reason is the first thing that is missing, from the wire up.
Asking never waits: tables do not block, and a worker is given a short time to answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fusefs.errors import VolumeError
from fusefs.host import MountEntry
from fusefs.volume.hostcalls import host_call
from fusefs.volume.pieces import Pieces
from fusefs.volume.state import Bind, boot_id
from pyscsi_init.errors import IscsiError

ASK_SECONDS = 2.0

GIVEN_UP = frozenset(("emergency_ro", "shutdown"))
"""How mountinfo says that a filesystem writes nothing any more, after an error that it met."""

AT_REST = ("attached", "mounted")


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeStatus:
    """One volume, for people and for front doors."""

    name: str
    url: str = ""
    state: str
    """attached, mounted; recovering (the target or the worker is away and I/O waits); a phase on
    the way (such as ``mounting``) while a command works on it; failed (``last_error`` says why);
    defined, for one that is known by name and not attached."""
    file: str = ""
    loop: str = ""
    mountpoint: str = ""
    binds: tuple[Bind, ...] = ()
    once: bool = False
    """It lives and dies where it is mounted."""
    fuse_channel: str = ""
    worker_pid: int | None = None
    size_bytes: int = 0
    block_size: int = 0
    read_only: bool = False
    on_disconnect: str = ""
    durability: str = ""
    fstype: str = ""
    session: dict[str, Any] = field(default_factory=dict)
    """target, portal, isid, tsih, keys; empty where the worker does not answer."""
    fence: dict[str, Any] = field(default_factory=dict)
    """key, held; empty where other nodes are not kept from writing, or the worker is away."""
    io: dict[str, Any] = field(default_factory=dict)
    """reads, writes, flushes, discards, bytes_read, bytes_written, errors, in_flight;
    unflushed_writes, which is None until the first flush after a worker has died."""
    recoveries: int = 0
    last_error: str = ""
    protection_refused: tuple[str, ...] = ()
    """Protections of the worker that this host does not allow, with the reason."""
    restarts: int = 0
    """Workers that died and were followed by another one."""
    last_death: str = ""
    """How and why the last of them died."""
    restart_in_s: float | None = None
    """Seconds to the next attempt to start a worker; None where there is one."""
    savable: bool = False
    """Its worker answers and its session has not failed for good, so an orderly end can still write
    out what it holds, also where a mount of it is missing."""
    silent: bool = False
    """Its worker lives and gave no answer, which is all that is known: it may be busy."""

    @property
    def failed(self) -> bool:
        """Whether it can only be taken down."""
        return self.state == "failed"


async def look(volume: Pieces, *, being_worked_on: bool = False) -> VolumeStatus:
    """The status of one volume. ``being_worked_on``: another command holds its lock."""
    facts = volume.state.facts
    answer: dict[str, Any] = {}
    trouble = silence = ""
    if volume.worker_is_alive():
        try:
            answer = await volume.control.call("status", deadline_s=ASK_SECONDS)
        except (VolumeError, IscsiError) as error:
            silence = str(error)
        else:
            trouble = str(answer.get("failed") or "")
    loops, mount, missing = await host_call(lambda: compare(volume))
    if not being_worked_on:
        trouble = missing or trouble or _given_up(volume, mount, answer)
    state = volume.state.phase
    savable = bool(answer) and not answer.get("failed") and state in AT_REST
    held = volume.held
    if silence and not trouble:
        if being_worked_on:
            silence = ""  # it may not have come so far, or be about to end
        elif held is not None and held.native and held.is_followed:
            state = "recovering"  # a worker that hangs is killed and followed
        else:
            trouble = silence
    is_between_workers = held is not None and (
        held.state == "waiting" or (held.state == "starting" and held.restarts > 0 and not answer)
    )
    if is_between_workers and not missing:
        state, trouble = "recovering", ""
        answer["last_error"] = held.last_death if held else ""
    elif trouble:
        state = "failed"
    elif answer.get("recovering"):
        state = "recovering"
    return VolumeStatus(
        name=volume.state.name,
        url=volume.state.spec.url,
        state=state,
        file=str(volume.paths.file) if answer else "",
        loop=loops[0] if loops else "",
        mountpoint=volume.state.mountpoint,
        binds=volume.state.binds,
        once=volume.state.once,
        fuse_channel=volume.state.spec.fuse_channel,
        worker_pid=volume.worker.pid if volume.worker and volume.worker_is_alive() else None,
        size_bytes=int(answer.get("size_bytes") or facts.get("size_bytes") or 0),
        block_size=int(facts.get("block_size") or 0),
        read_only=volume.state.spec.read_only,
        on_disconnect=volume.state.spec.on_disconnect,
        durability=volume.state.spec.durability,
        fstype=mount.fstype if mount else "",
        session=dict(answer.get("session") or {}),
        fence=dict(answer.get("fence") or {}),
        io=dict(answer.get("io") or {}),
        recoveries=int(answer.get("recoveries") or 0),
        last_error=trouble or silence or str(answer.get("last_error") or ""),
        protection_refused=tuple(facts.get("protection_refused") or ()),
        restarts=held.restarts if held else 0,
        last_death=held.last_death if held else "",
        restart_in_s=held.restart_in_s if held else None,
        savable=savable,
        silent=bool(silence),
    )


def compare(volume: Pieces) -> tuple[list[str], MountEntry | None, str]:
    """Loop devices, mount, and what is missing from what the state file says. Blocks."""
    state = volume.state
    loops = [device.path for device in volume.find_loops()]
    mount = None
    if state.mountpoint:
        found = [e for e in volume.find_mounts() if e.mountpoint == state.mountpoint]
        mount = found[-1] if found else None
    if state.boot_id != boot_id():
        return loops, mount, "it was attached before the last boot of this host"
    if state.worker is None or not volume.is_served():
        return loops, mount, _dead(volume)
    if state.phase not in AT_REST:
        return loops, mount, f"the command that was {_doing(state.phase)} it did not finish"
    if not loops:
        return loops, mount, "its loop device was detached by somebody else"
    if state.phase == "mounted" and mount is None:
        return loops, mount, f"it is not mounted on {state.mountpoint} any more"
    gone = [
        b.directory for b in state.binds if not (b.pending or volume.is_mounted_at(b.directory))
    ]
    if gone:
        return loops, mount, f"it is not bound to {', '.join(gone)} any more"
    return loops, mount, ""


def _given_up(volume: Pieces, mount: MountEntry | None, answer: Mapping[str, Any]) -> str:
    """Why nothing can be written although nothing is missing; empty if it can."""
    state = volume.state
    if mount is None or state.phase != "mounted" or state.spec.read_only:
        return ""
    signs = set(mount.super_options)
    had_errors = bool(answer.get("io", {}).get("errors"))
    if GIVEN_UP.isdisjoint(signs) and not (had_errors and "ro" in signs):
        return ""
    why = f" ({answer['last_error']})" if answer.get("last_error") else ""
    return (
        f"its {mount.fstype} met an I/O error{why} and writes nothing any more; remove the "
        f"cause and end what uses it, the next use checks it and mounts it anew"
    )


def _dead(volume: Pieces) -> str:
    if volume.state.worker is None:
        return f"the command that was {_doing(volume.state.phase)} it did not finish"
    try:
        lines = volume.paths.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    last = f"; its log ends with: {lines[-1][:300]}" if lines else ""
    if volume.held is not None and volume.held.last_death:
        return f"its worker is dead: {volume.held.last_death}{last}"
    return f"its worker (pid {volume.state.worker.pid}) is dead{last}"


def _doing(phase: str) -> str:
    return "logging in to" if phase == "logging-in" else phase


def unreadable(name: str, reason: str) -> VolumeStatus:
    """A volume whose state file cannot be used; ``name`` is its directory's."""
    return VolumeStatus(name=name, state="failed", last_error=f"its state file {reason}")
