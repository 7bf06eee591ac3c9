# SPDX-License-Identifier: Apache-2.0
"""The one interface to everything that needs privilege.

Whoever attaches a volume speaks to a `Host`: `LinuxHost` does it, `FakeHost` remembers it.
Methods are synchronous, because they end in system calls and programs that block; callers run
them in worker threads, never on the thread of an event loop. Each is bounded by a deadline,
idempotent where it takes something away, and raises only the tree of `fusefs.errors`. The
interface knows devices, files and mounts; what a volume is, and in which order to do things, it
does not know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fusefs.errors import ProcessUser
from fusefs.host.container import Bind, Container
from fusefs.host.records import (
    BlankCheck,
    Capabilities,
    FormatMark,
    FsckResult,
    FuseConnection,
    LoopDevice,
    MountEntry,
    Probe,
    Refusal,
)

QUICK_S = 30.0
"""Calls that only wait for the target to answer a few requests."""

MKFS_S = 600.0
FSCK_S = 3600.0
"""A full check of terabytes takes long, and stopping it half way helps nobody."""


class Host(ABC):
    """What this host can be asked to do."""

    # -- loop devices ---------------------------------------------------------------------------

    @abstractmethod
    def loop_attach(
        self,
        file: str,
        *,
        block_size: int,
        read_only: bool = False,
        direct_io: bool = True,
        held: bool = False,
        timeout_s: float = QUICK_S,
    ) -> LoopDevice:
        """Attach ``file`` to a free loop device with the LUN's logical block size.

        With ``held`` it goes away with its last user, and this process is one until it detaches it
        or ends, however it ends.

        Raises:
            LoopFailed: no device, or not with these properties; nothing stays attached.
            NotAllowed: not root, or no device node.
            Timeout: opening the file or asking for its size got no answer.
        """

    @abstractmethod
    def loop_detach(
        self, device: LoopDevice, *, lazy: bool = False, timeout_s: float = QUICK_S
    ) -> None:
        """Detach, and wait until it is really gone; a device that is gone already is no error.

        With ``lazy`` it goes away with its last user, and nobody waits for that. Another attachment
        under the same number is left alone.

        Raises:
            DeviceBusy: it is mounted or open; nothing was done, unless somebody opened it in the
                same moment (then it goes away with its last user).
        """

    @abstractmethod
    def loop_set_capacity(self, device: LoopDevice, *, timeout_s: float = QUICK_S) -> LoopDevice:
        """Take over the size of the backing file; the answer carries the new size."""

    @abstractmethod
    def loop_follow(self, file: str, *, timeout_s: float = QUICK_S) -> None:
        """Have every loop device over ``file`` that is smaller take over its size.

        For whoever serves the file: in a child process, because a thread of the process that
        answers must not wait for the answer.

        Raises:
            CallFailed: one did not; others may have.
            Timeout: the file's server did not answer.
        """

    @abstractmethod
    def loop_list(self) -> list[LoopDevice]:
        """Every attached loop device of the host, whoever made it. Never blocks."""

    # -- what is on a device --------------------------------------------------------------------

    @abstractmethod
    def probe(self, device: str, *, timeout_s: float = QUICK_S) -> Probe:
        """What is recognised on a device.

        Raises:
            CallFailed: it cannot be read, which is never taken for "nothing there".
        """

    @abstractmethod
    def read_blank(self, device: str, *, timeout_s: float = QUICK_S) -> BlankCheck:
        """Read the places that must be zero on a blank device, past the page cache.

        Raises:
            CallFailed: a read failed.
            DeviceBusy: it is mounted.
        """

    @abstractmethod
    def assert_formattable(self, device: str, *, timeout_s: float = 2 * QUICK_S) -> None:
        """Return only if nothing is lost by formatting ``device``.

        Raises:
            NotBlank: a signature, or a byte that is not zero.
            CallFailed, DeviceBusy: it could not be found out.
        """

    @abstractmethod
    def read_format_mark(self, device: str, *, timeout_s: float = QUICK_S) -> FormatMark | None:
        """The mark on ``device``, and nothing else of it: ten small reads.

        Raises:
            CallFailed: a read failed.
        """

    @abstractmethod
    def write_format_mark(
        self, device: str, mark: FormatMark, *, timeout_s: float = QUICK_S
    ) -> None:
        """Mark a blank device as one on which mkfs runs, for good before this returns.

        Raises:
            CallFailed, DeviceBusy: it could not be done, or in part.
        """

    @abstractmethod
    def remove_format_mark(
        self, device: str, mark: FormatMark, *, timeout_s: float = QUICK_S
    ) -> None:
        """Write out what mkfs has written, then take away what it has left of the mark."""

    @abstractmethod
    def wipe_unfinished(
        self, device: str, mark: FormatMark, *, timeout_s: float = 2 * QUICK_S
    ) -> None:
        """Make a device with this mark read as blank, but for the mark: all that a probe or
        ``assert_formattable`` looks at. Only for what a probe calls ``unfinished``.

        Raises:
            NotBlank: it does not have this mark, or something else writes to it.
            CallFailed, DeviceBusy: it could not be done, or in part.
        """

    # -- filesystems ----------------------------------------------------------------------------

    @abstractmethod
    def mkfs(
        self,
        device: str,
        fstype: str,
        *,
        label: str = "",
        uuid: str = "",
        options: Sequence[str] = (),
        timeout_s: float = MKFS_S,
    ) -> None:
        """Make a filesystem. It does not ask what is there: call ``assert_formattable`` first.

        Raises:
            FormatFailed: mkfs failed, or what it made is not recognised.
            InvalidSpec: a filesystem or label that cannot be made.
        """

    @abstractmethod
    def fsck(
        self, device: str, fstype: str, *, full: bool = False, timeout_s: float = FSCK_S
    ) -> FsckResult:
        """Check before a writable mount, as far as the filesystem's makers advise it.

        Raises:
            HasFilesystemErrors: a person must decide.
            CommandFailed: the check itself could not be done.
        """

    @abstractmethod
    def grow_filesystem(
        self, device: str, mountpoint: str, fstype: str, *, timeout_s: float = MKFS_S
    ) -> None:
        """Grow a mounted filesystem to the size of its device."""

    @abstractmethod
    def trim(self, mountpoint: str, *, timeout_s: float = MKFS_S) -> int | None:
        """Discard what the filesystem does not use: bytes, or None where the device cannot."""

    @abstractmethod
    def sync(self, mountpoint: str, *, timeout_s: float = QUICK_S) -> None:
        """Write the filesystem out; unlike umount this reports that a write was lost.

        Raises:
            CallFailed: it was not all written.
        """

    # -- mounts ---------------------------------------------------------------------------------

    @abstractmethod
    def mount(
        self,
        device: str,
        directory: str,
        fstype: str,
        *,
        options: Sequence[str] = (),
        read_only: bool = False,
        timeout_s: float = QUICK_S,
    ) -> None:
        """Mount a device. ``read_only`` means all the way down: not even a journal is replayed.

        Raises:
            MountFailed: with the errno and what the kernel logged.
            InvalidSpec: an option that is another operation.
        """

    @abstractmethod
    def bind(
        self, source: str, target: str, *, read_only: bool = False, timeout_s: float = QUICK_S
    ) -> None:
        """Bind mount a directory or a file; nothing is left if it cannot be made read-only."""

    @abstractmethod
    def umount(
        self,
        path: str,
        *,
        lazy: bool = False,
        force: bool = False,
        timeout_s: float = QUICK_S,
    ) -> bool:
        """Take the uppermost mount at ``path`` away; False where there was none.

        ``path`` is as the mount table has it: it is not resolved, since that asks the filesystem.

        Raises:
            MountBusy: naming who uses it.
        """

    @abstractmethod
    def mounts(self) -> list[MountEntry]:
        """The mount table of this process, in order. Never blocks."""

    @abstractmethod
    def mount_users(self, mountpoint: str) -> list[ProcessUser]:
        """Who keeps the mount there busy, as far as /proc shows."""

    @abstractmethod
    def prepare_directory(self, path: str, *, mode: int = 0o700) -> None:
        """Make a directory of ours with exactly this mode; a link, or another user's, fails."""

    @abstractmethod
    def make_private_unbindable(self, directory: str) -> None:
        """Make ``directory`` a mount whose content is never propagated or bound elsewhere."""

    # -- FUSE -----------------------------------------------------------------------------------

    @abstractmethod
    def open_fuse(self) -> int:
        """A new /dev/fuse, non-blocking and close-on-exec; the caller owns the descriptor."""

    @abstractmethod
    def fuse_mount(
        self,
        fd: int,
        mountpoint: str,
        *,
        source: str,
        subtype: str = "",
        rootmode: int = 0o040000,
        options: Sequence[str] = (),
    ) -> int:
        """Mount what ``fd`` serves and return the number of the connection.

        ``options`` beside fd, rootmode, user_id and group_id: ``allow_other``,
        ``default_permissions``, ``max_read=N``.
        """

    @abstractmethod
    def fuse_connection_of(self, mountpoint: str) -> int | None:
        """The connection that serves the mount there. Never blocks."""

    @abstractmethod
    def fuse_connections(self) -> list[FuseConnection]:
        """Every FUSE connection of the host."""

    @abstractmethod
    def fuse_abort(self, number: int) -> bool:
        """End a connection and every request in it; False where there is none."""

    # -- processes ------------------------------------------------------------------------------

    @abstractmethod
    def protect_process(
        self,
        *,
        io_flusher: bool = True,
        lock_memory: bool = True,
        oom_score_adj: int | None = -999,
    ) -> list[Refusal]:
        """Protect the calling process from memory pressure; what was refused, and why."""

    @abstractmethod
    def give_back_memory(self) -> None:
        """Give what this process has freed back to the system."""

    @abstractmethod
    def ends_as_a_whole(self) -> bool:
        """Whether all processes of ours, and the mounts, can be ended at once, as those of a
        container are."""

    @abstractmethod
    def own_mounts_command(self, volumes: str, needed: Sequence[str] = ()) -> list[str]:
        """The beginning of a command line that runs the rest where the file systems of volumes,
        whose files lie below ``volumes``, are not mounted, and the directories ``needed`` are;
        empty where that is of no use."""

    @abstractmethod
    def process_group_command(self) -> list[str]:
        """The beginning of a command line that starts the rest in a control group of its own; empty
        where it is to be moved by ``set_process_apart``."""

    @abstractmethod
    def set_process_apart(self, pid: int) -> list[str]:
        """Move a process out of its starter's control group; what could not be done, in words. The
        OOM killer is kept away from it too, where that is allowed."""

    @abstractmethod
    def remove_process_group(self) -> None:
        """Remove the control group of our processes, if none is in it any more."""

    @abstractmethod
    def start_container(
        self,
        argv: Sequence[str],
        *,
        rootfs: str,
        binds: Sequence[Bind] = (),
        hostname: str = "container",
        directory: str = "/",
        terminal: bool = False,
    ) -> Container:
        """Run ``argv`` in new namespaces with ``rootfs`` as its root.

        A ``rootfs`` without ``bin`` is made from busybox and removed again by ``Container.stop``.
        """

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this process can do here; changes nothing."""
