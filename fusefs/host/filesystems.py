# SPDX-License-Identifier: Apache-2.0
"""Making, checking, growing and trimming filesystems with the programs of the system.

One row a filesystem says which programs serve it and what their exit statuses mean. Policy of the
check, as the makers of each filesystem recommend it:

- ext4: `e2fsck -p` before every writable mount. It replays the journal and repairs what is safe;
  exit status bit 4 and above means that a person must decide.
- xfs: nothing. Mounting replays the log; `xfs_repair -n` only when a full check is asked for, and
  its verdict counts only where the log is clean.
- btrfs: nothing. Its own documentation advises against a check at boot; a full check is
  `btrfs check --readonly`.

New filesystems are made without a discard of the whole device: the device was read as blank,
and an UNMAP of terabytes can take a target longer than any deadline. mkfs gets no force flag
where it has a guard of its own, so a signature that appeared since our look still stops it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from fusefs.errors import (
    CallFailed,
    CommandFailed,
    FormatFailed,
    HasFilesystemErrors,
    InvalidSpec,
    NotAllowed,
)
from fusefs.host import process, syscalls
from fusefs.host.blocking import bounded
from fusefs.host.probe import probe
from fusefs.host.records import FsckResult
from fusefs.host.run import require_program, run

PROBE_TIMEOUT_S = 30.0
FITRIM = 0xC0185879


@dataclass(frozen=True, slots=True)
class Maker:
    """How one filesystem is made."""

    program: str
    package: str
    arguments: tuple[str, ...]
    label_option: str
    max_label_bytes: int
    uuid_option: tuple[str, str] | None = None
    """The option, and what stands before the UUID in its argument."""


MAKERS: dict[str, Maker] = {
    # -F: a loop device is a whole disk, about which mke2fs would ask. -m 0: blocks reserved for
    # root make sense on a root filesystem, not on a volume.
    "ext4": Maker(
        "mkfs.ext4", "e2fsprogs", ("-F", "-q", "-m", "0", "-E", "nodiscard"), "-L", 16, ("-U", "")
    ),
    "xfs": Maker("mkfs.xfs", "xfsprogs", ("-q", "-K"), "-L", 12, ("-m", "uuid=")),
    # Given a UUID, it reads every block device of the host to see that nobody else has it: other
    # volumes too, whose targets may be away. An unfinished btrfs shows no UUID anyway.
    "btrfs": Maker("mkfs.btrfs", "btrfs-progs", ("-q", "-K"), "-L", 255),
}


def maker(fstype: str) -> Maker:
    """The row of ``fstype``.

    Raises:
        InvalidSpec: a filesystem that is not made here.
    """
    try:
        return MAKERS[fstype]
    except KeyError:
        raise InvalidSpec(
            "filesystem", fstype, "cannot be made here", remedy=f"one of {', '.join(MAKERS)}"
        ) from None


def mkfs(
    device: str, fstype: str, *, label: str, uuid: str, options: Sequence[str], timeout_s: float
) -> None:
    """Make a filesystem; see ``Host.mkfs``."""
    row = maker(fstype)
    if len(label.encode()) > row.max_label_bytes:
        raise InvalidSpec("label", label, f"{fstype} has room for {row.max_label_bytes} bytes only")
    program = require_program(row.program, row.package)
    name = (row.label_option, label) if label else ()
    identity: tuple[str, ...] = ()
    if uuid and row.uuid_option:
        option, before = row.uuid_option
        identity = (option, before + uuid)
    command = (program, *row.arguments, *name, *identity, *options, device)
    done = run(command, timeout_s=timeout_s, accept=None, what=f"making {fstype} on {device}")
    if done.exit_status != 0:
        raise FormatFailed(
            command,
            device=device,
            fstype=fstype,
            exit_status=done.exit_status,
            output=done.output,
        )
    found = probe(device, timeout_s=PROBE_TIMEOUT_S)
    if not found.is_filesystem or found.fstype != fstype:
        raise FormatFailed(
            command,
            device=device,
            fstype=fstype,
            exit_status=0,
            output=f"afterwards the device holds {found.found or 'nothing that is recognised'}",
        )


def fsck(device: str, fstype: str, *, full: bool, timeout_s: float) -> FsckResult:
    """Check a filesystem that is not mounted; see ``Host.fsck``."""
    if fstype in ("ext4", "ext3", "ext2"):
        return _fsck_ext(device, fstype, full, timeout_s)
    if fstype == "xfs" and full:
        return _fsck_xfs(device, timeout_s)
    if fstype == "btrfs" and full:
        program = require_program("btrfs", "btrfs-progs")
        done = run((program, "check", "--readonly", device), timeout_s=timeout_s, accept=None)
        if done.exit_status != 0:
            raise HasFilesystemErrors(
                device, fstype, exit_status=done.exit_status, output=done.output
            )
        return FsckResult(ran=True, output=done.output)
    return FsckResult(ran=False, note=_NOT_RUN.get(fstype, f"no check is known for {fstype}"))


_NOT_RUN = {
    "xfs": "mounting replays the log; nothing else is checked",
    "btrfs": "btrfs checks itself while it is in use",
}


def _fsck_ext(device: str, fstype: str, full: bool, timeout_s: float) -> FsckResult:
    program = require_program("e2fsck", "e2fsprogs")
    command = (program, "-p", *(("-f",) if full else ()), device)
    done = run(command, timeout_s=timeout_s, accept=None, what=f"checking {device}")
    status = done.exit_status
    # e2fsck(8): 1 corrected, 2 corrected and the system should be rebooted (which concerns a
    # mounted root only), 4 errors left, 8 operational error, 16 usage, 32 cancelled, 128 library.
    # A filesystem with errors left is the volume's; a check that could not be done is the host's.
    if 0 <= status <= 3:
        return FsckResult(
            ran=True, exit_status=status, corrected=bool(status & 3), output=done.output
        )
    if status > 0 and status & 4:
        raise HasFilesystemErrors(device, fstype, exit_status=status, output=done.output)
    raise CommandFailed(
        command,
        exit_status=status,
        output=done.output,
        what=f"checking {device}",
        remedy="see whether something else uses the device",
    )


def _fsck_xfs(device: str, timeout_s: float) -> FsckResult:
    program = require_program("xfs_repair", "xfsprogs")
    command = (program, "-n", device)
    done = run(command, timeout_s=timeout_s, accept=None, what=f"checking {device}")
    # With a log that was not replayed, -n looks at the state before the replay and finds errors
    # that are none.
    if "ignored because the -n option" in " ".join(done.output.split()):
        return FsckResult(
            ran=False,
            exit_status=done.exit_status,
            note="the log is dirty, so there is no verdict; mount and unmount it first",
            output=done.output,
        )
    if done.exit_status == 1:
        # The phases it went through would push what it found out of the message.
        lines = [one for one in done.output.splitlines() if not one.startswith((" ", "Phase "))]
        raise HasFilesystemErrors(device, "xfs", exit_status=1, output="\n".join(lines))
    if done.exit_status != 0:
        raise CommandFailed(
            command, exit_status=done.exit_status, output=done.output, what=f"checking {device}"
        )
    return FsckResult(ran=True, output=done.output)


def grow(device: str, mountpoint: str, fstype: str, *, timeout_s: float) -> None:
    """Grow a mounted filesystem to the size of its device; see ``Host.grow_filesystem``."""
    command: tuple[str, ...]
    if fstype in ("ext4", "ext3"):
        command = (require_program("resize2fs", "e2fsprogs"), device)
    elif fstype == "xfs":
        command = (require_program("xfs_growfs", "xfsprogs"), "-d", mountpoint)
    elif fstype == "btrfs":
        program = require_program("btrfs", "btrfs-progs")
        if bounded(f"looking at {mountpoint}", timeout_s, lambda: _fills(mountpoint, device)):
            return  # below 256 MiB btrfs refuses a size, even the one that it has
        command = (program, "filesystem", "resize", "max", mountpoint)
    else:
        raise InvalidSpec("filesystem", fstype, "cannot be grown while it is mounted")
    try:
        run(command, timeout_s=timeout_s, what=f"growing {fstype} on {mountpoint}")
    except CommandFailed as fault:
        if fstype.startswith("ext") and not process.has_capability(process.CAP_SYS_RESOURCE):
            # ext4 alone asks for it: growing may use up the blocks reserved for root.
            raise NotAllowed(
                f"grow {fstype} on {mountpoint} while it is mounted",
                "CAP_SYS_RESOURCE is missing",
                remedy="grant it, or umount the volume, attach it, run e2fsck -f and resize2fs on "
                "its loop device, detach it, and mount it again",
            ) from fault
        raise


def _fills(mountpoint: str, device: str) -> bool:
    """Whether a btrfs of one device is as large as that: it counts all of it."""
    found = os.statvfs(mountpoint)
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)
    return found.f_blocks * found.f_frsize == size - size % found.f_frsize


def trim(mountpoint: str, *, timeout_s: float) -> int | None:
    """Tell the device which blocks are free; see ``Host.trim``."""

    def call() -> int:
        fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # struct fstrim_range: start, len, minlen; len comes back as the bytes trimmed.
            answer = fcntl.ioctl(fd, FITRIM, struct.pack("=3Q", 0, 2**64 - 1, 0))
            return int(struct.unpack("=3Q", answer)[1])
        finally:
            os.close(fd)

    try:
        return bounded(f"trimming {mountpoint}", timeout_s, call)
    except OSError as fault:
        if fault.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
            return None
        raise CallFailed("FITRIM", mountpoint, fault.errno or 0) from fault


def sync(mountpoint: str, *, timeout_s: float) -> None:
    """Write a filesystem out and report what failed; see ``Host.sync``."""

    def call() -> None:
        fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # syncfs(2) reports write errors that nobody has seen, which umount does not.
            syscalls.syncfs(fd)
        finally:
            os.close(fd)

    try:
        bounded(f"writing {mountpoint} out", timeout_s, call)
    except OSError as fault:
        raise CallFailed("syncfs", mountpoint, fault.errno or 0) from fault
