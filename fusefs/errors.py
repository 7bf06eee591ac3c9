# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong in the volume layer, as one tree.

It is a tree of its own, not a branch of ``pyscsi_init.errors``: what the initiator raises is about
targets and sessions and passes through here unchanged; what stands here is about this host and
about volumes::

    VolumeError
    ├── InvalidSpec              you: a value of a volume that cannot work
    ├── NotAllowed               you: not root, no device node, a capability that is missing
    ├── HostError                this host refused or failed
    │   ├── CommandFailed        a program of the system (command, exit status, end of output)
    │   │   └── FormatFailed     mkfs
    │   ├── CallFailed           a system call (call, path, errno, what the kernel logged)
    │   │   └── MountFailed      mount(2)
    │   ├── LoopFailed           no loop device, or not with the properties that were asked for
    │   └── Timeout              not over in time; what it waits for may still be going on
    ├── DeviceBusy               a device is in use (by whom)
    │   └── MountBusy            a mount is in use (by whom)
    ├── ContentError             what is on the device forbids the step
    │   ├── NotBlank             refusing to format: something is there (what, where)
    │   ├── BlankNotFormatted    nothing is there, and nobody allowed us to format
    │   │   └── UnformattedReadOnly   nothing is there, and the volume is read-only
    │   ├── FilesystemMismatch   another filesystem than the one asked for (found, wanted)
    │   └── HasFilesystemErrors  fsck found what it may not repair by itself
    ├── NameInUse                the name belongs to a volume with another specification
    ├── NoSuchVolume             no volume of this name
    ├── AlreadyAttached          this node has the logical unit already, as another volume
    ├── OperationInProgress      the same volume is being worked on right now
    └── WorkerFailed             the process of the volume died, hangs or refused

Each class carries typed fields. ``str(error)`` is one sentence fit for a person: what was found,
why that stops us, and after a semicolon what to do. No secret ever enters one.
"""

from __future__ import annotations

import errno as errno_names
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

LAST_LINES = 8
"""How much of a program's output goes into an error: mkfs and fsck say the reason at the end."""


@dataclass(frozen=True, slots=True)
class ProcessUser:
    """A process that keeps a device or a mount busy."""

    pid: int
    name: str
    how: str
    """``open file``, ``working directory``, ``root directory``, ``program`` or ``mapped file``."""

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}, {self.how})"


class VolumeError(Exception):
    """Root of every error that the volume layer raises on purpose."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message}; {remedy}" if remedy else message)


class InvalidSpec(VolumeError):
    """A value in the specification of a volume cannot work."""

    def __init__(self, what: str, value: object, reason: str, *, remedy: str = "") -> None:
        self.what = what
        self.value = value
        self.reason = reason
        text = f"{what} {value!r}: {reason}" if value is not None else f"{what}: {reason}"
        super().__init__(text, remedy=remedy)


class NotAllowed(VolumeError):
    """This process may not do it here: not root, a missing capability, a missing device node."""

    def __init__(self, what: str, reason: str, *, remedy: str = "") -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"cannot {what}: {reason}", remedy=remedy)


class HostError(VolumeError):
    """The host, not the volume, refused or failed."""


class CommandFailed(HostError):
    """A program of the system ended with an exit status that means failure."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        exit_status: int | None,
        output: str = "",
        what: str = "",
        remedy: str = "",
    ) -> None:
        self.command = tuple(command)
        self.exit_status = exit_status
        self.output = last_lines(output)
        how = "could not be started" if exit_status is None else f"ended with {exit_status}"
        text = f"{what}: " if what else ""
        text += f"`{shlex.join(self.command)}` {how}"
        if self.output:
            text += f": {' | '.join(self.output.splitlines())}"
        super().__init__(text, remedy=remedy)


class FormatFailed(CommandFailed):
    """mkfs failed, or what it made cannot be recognised."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        device: str,
        fstype: str,
        exit_status: int | None,
        output: str = "",
    ) -> None:
        self.device = device
        self.fstype = fstype
        super().__init__(
            command,
            exit_status=exit_status,
            output=output,
            what=f"making {fstype} on {device} failed",
            remedy="look at the reason above, then mount it again: what mkfs has left is wiped and "
            "made anew",
        )


class CallFailed(HostError):
    """A system call failed. ``detail`` is what the kernel logged about it, where that is known."""

    def __init__(
        self, call: str, path: str, errno: int, *, detail: str = "", remedy: str = ""
    ) -> None:
        self.call = call
        self.path = path
        self.errno = errno
        self.detail = detail
        name = errno_names.errorcode.get(errno, str(errno))
        text = f"{call} {path}: {os.strerror(errno)} ({name})"
        if detail:
            text += f", kernel says: {' | '.join(detail.splitlines())}"
        super().__init__(text, remedy=remedy)


class MountFailed(CallFailed):
    """mount(2) failed."""

    def __init__(
        self,
        source: str,
        target: str,
        errno: int,
        *,
        fstype: str = "",
        detail: str = "",
        remedy: str = "",
    ) -> None:
        self.source = source
        self.target = target
        self.fstype = fstype
        kind = f" as {fstype}" if fstype else ""
        super().__init__(
            "mount", f"{source}{kind} on {target}", errno, detail=detail, remedy=remedy
        )


class LoopFailed(HostError):
    """No loop device could be had, or it is not what was asked for."""

    def __init__(self, file: str, reason: str, *, device: str = "", remedy: str = "") -> None:
        self.file = file
        self.device = device
        self.reason = reason
        where = f" as {device}" if device else ""
        super().__init__(f"cannot attach {file}{where}: {reason}", remedy=remedy)


class Timeout(HostError):
    """A step was not over in time.

    A system call cannot be taken back: its thread stays until the kernel lets it go, which aborting
    the FUSE connection below the volume brings about.
    """

    def __init__(self, what: str, timeout_s: float, *, remedy: str = "") -> None:
        self.what = what
        self.timeout_s = timeout_s
        super().__init__(f"{what} took longer than {timeout_s:g} s", remedy=remedy)


class DeviceBusy(VolumeError):
    """A device cannot be taken or given back, because something uses it."""

    noun = "device"

    def __init__(
        self,
        path: str,
        *,
        users: Sequence[ProcessUser] = (),
        mounts: Sequence[str] = (),
        reason: str = "",
    ) -> None:
        self.path = path
        self.users = tuple(users)
        self.mounts = tuple(mounts)
        self.reason = reason
        parts = [reason] if reason else []
        if self.users:
            parts.append("used by " + ", ".join(str(user) for user in self.users))
        if self.mounts:
            parts.append("mounts on it: " + ", ".join(self.mounts))
        why = ", ".join(parts) or "nothing visible from here uses it, perhaps another namespace"
        super().__init__(
            f"{self.noun} {path} is busy: {why}",
            remedy="end what uses it and try again",
        )

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that keep it busy, each once."""
        return tuple(dict.fromkeys(user.pid for user in self.users))


class MountBusy(DeviceBusy):
    """A mount cannot be removed, because something uses it."""

    noun = "mount"


class ContentError(VolumeError):
    """What lies on the device, or does not, forbids the step."""

    def __init__(self, device: str, message: str, *, remedy: str = "") -> None:
        self.device = device
        super().__init__(message, remedy=remedy)


class NotBlank(ContentError):
    """The device holds something, so it is not formatted.

    ``found`` names it (``ext4 filesystem``, ``gpt partition table``, ``data``), ``offset`` is the
    byte where it was seen.
    """

    def __init__(self, device: str, found: str, *, offset: int | None = None) -> None:
        self.found = found
        self.offset = offset
        where = f" at byte {offset}" if offset is not None else ""
        super().__init__(
            device,
            f"refusing to format {device}: found {found}{where}",
            remedy="if nothing on it is needed, erase it yourself (wipefs alone is not enough for "
            "data without a signature), then attach again",
        )


class BlankNotFormatted(ContentError):
    """The device is blank and formatting was not asked for."""

    def __init__(self, device: str, *, message: str = "", remedy: str = "") -> None:
        super().__init__(
            device,
            message or f"{device} holds no filesystem",
            remedy=remedy
            or "mount it with --format-if-blank to make one, or check that this is the right LUN",
        )


class UnformattedReadOnly(BlankNotFormatted):
    """The device is blank and may not be written to."""

    def __init__(self, device: str) -> None:
        super().__init__(
            device,
            message=f"{device} holds no filesystem and the volume is read-only",
            remedy="mount it read-write once with --format-if-blank, or check that this is the "
            "right LUN",
        )


class FilesystemMismatch(ContentError):
    """The device holds another filesystem than the volume asks for."""

    def __init__(self, device: str, *, found: str, wanted: str) -> None:
        self.found = found
        self.wanted = wanted
        super().__init__(
            device,
            f"{device} holds {found}, and the volume asks for {wanted}",
            remedy="ask for what is there, or check that this is the right LUN",
        )


class HasFilesystemErrors(ContentError):
    """The check found errors that it may not repair by itself."""

    def __init__(self, device: str, fstype: str, *, exit_status: int, output: str = "") -> None:
        self.fstype = fstype
        self.exit_status = exit_status
        self.output = last_lines(output)
        text = f"{fstype} on {device} has errors (check ended with {exit_status})"
        if self.output:
            text += f": {' | '.join(self.output.splitlines())}"
        super().__init__(
            device, text, remedy=f"take a copy, then repair it by hand ({_REPAIR.get(fstype, '')})"
        )


class NameInUse(VolumeError):
    """A volume of this name exists with another specification."""

    def __init__(self, name: str, *, difference: str = "") -> None:
        self.name = name
        self.difference = difference
        what = f" ({difference})" if difference else ""
        super().__init__(
            f"volume {name!r} exists with another specification{what}",
            remedy="choose another name, or remove the volume first",
        )


class NoSuchVolume(VolumeError):
    """There is no volume of this name on this node."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"there is no volume {name!r} on this node",
            remedy="`pyscsi-init status` lists the volumes",
        )


class AlreadyAttached(VolumeError):
    """The logical unit is attached on this node as another volume."""

    def __init__(self, name: str, *, other: str) -> None:
        self.name = name
        self.other = other
        text = f"volume {name!r} is attached already"
        if name != other:
            text = f"the LUN of volume {name!r} is attached here as volume {other!r}"
        remedy = f"use volume {other!r}, detach it first, or attach both read-only"
        super().__init__(f"{text}; used twice its filesystem is destroyed", remedy=remedy)


class OperationInProgress(VolumeError):
    """Another operation on the same volume has not ended."""

    def __init__(self, name: str, *, operation: str) -> None:
        self.name = name
        self.operation = operation
        super().__init__(
            f"volume {name!r} is busy with {operation}", remedy="try again when it has ended"
        )


class WorkerFailed(VolumeError):
    """The process that carries a volume died, hangs or refused."""

    def __init__(
        self, name: str, reason: str, *, pid: int | None = None, exit_status: int | None = None
    ) -> None:
        self.name = name
        self.reason = reason
        self.pid = pid
        self.exit_status = exit_status
        who = f" (pid {pid})" if pid is not None else ""
        super().__init__(
            f"the worker{who} of volume {name!r} failed: {reason}",
            remedy=f"`pyscsi-init status {name}` and its log tell more",
        )


_REPAIR = {
    "ext4": "e2fsck -f",
    "ext3": "e2fsck -f",
    "ext2": "e2fsck -f",
    "xfs": "mount and unmount once to replay the log, then xfs_repair",
    "btrfs": "btrfs scrub, btrfs restore; btrfs check --repair only when told to",
}


def last_lines(output: str, count: int = LAST_LINES) -> str:
    """The end of a program's output, without empty lines and progress bars."""
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in output.split("\n")]
    return "\n".join([line for line in lines if line][-count:])
