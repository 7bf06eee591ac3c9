# SPDX-License-Identifier: Apache-2.0
"""The real host: each method of the interface, done by the file that knows how.

Nothing is decided here. What this file adds is one law: a method that may block refuses to run
on the thread of an event loop, because the request it waits for may be one that this loop
should answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusefs.errors import ProcessUser
from fusefs.host import (
    busy,
    capabilities,
    container,
    filesystems,
    format_mark,
    fuse_mount,
    loop,
    mountinfo,
    mounts,
    own_mounts,
    probe,
    process,
    process_group,
    syscalls,
)
from fusefs.host.blocking import blocking
from fusefs.host.container import Bind, Container
from fusefs.host.interface import FSCK_S, MKFS_S, QUICK_S, Host
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


class LinuxHost(Host):
    """This machine."""

    @blocking
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
        return loop.attach(
            file,
            block_size=block_size,
            read_only=read_only,
            direct_io=direct_io,
            held=held,
            timeout_s=timeout_s,
        )

    @blocking
    def loop_detach(
        self, device: LoopDevice, *, lazy: bool = False, timeout_s: float = QUICK_S
    ) -> None:
        loop.detach(device, lazy=lazy, timeout_s=timeout_s)

    @blocking
    def loop_set_capacity(self, device: LoopDevice, *, timeout_s: float = QUICK_S) -> LoopDevice:
        return loop.set_capacity(device, timeout_s=timeout_s)

    @blocking
    def loop_follow(self, file: str, *, timeout_s: float = QUICK_S) -> None:
        loop.follow(file, timeout_s=timeout_s)

    def loop_list(self) -> list[LoopDevice]:
        return loop.attached()

    @blocking
    def probe(self, device: str, *, timeout_s: float = QUICK_S) -> Probe:
        return probe.probe(device, timeout_s=timeout_s)

    @blocking
    def read_blank(self, device: str, *, timeout_s: float = QUICK_S) -> BlankCheck:
        return probe.read_blank(device, timeout_s=timeout_s)

    @blocking
    def assert_formattable(self, device: str, *, timeout_s: float = 2 * QUICK_S) -> None:
        probe.assert_formattable(device, timeout_s=timeout_s)

    @blocking
    def read_format_mark(self, device: str, *, timeout_s: float = QUICK_S) -> FormatMark | None:
        return format_mark.find(device, timeout_s=timeout_s)

    @blocking
    def write_format_mark(
        self, device: str, mark: FormatMark, *, timeout_s: float = QUICK_S
    ) -> None:
        format_mark.write(device, mark, timeout_s=timeout_s)

    @blocking
    def remove_format_mark(
        self, device: str, mark: FormatMark, *, timeout_s: float = QUICK_S
    ) -> None:
        format_mark.remove(device, mark, timeout_s=timeout_s)

    @blocking
    def wipe_unfinished(
        self, device: str, mark: FormatMark, *, timeout_s: float = 2 * QUICK_S
    ) -> None:
        format_mark.wipe(device, mark, timeout_s=timeout_s)

    @blocking
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
        filesystems.mkfs(
            device, fstype, label=label, uuid=uuid, options=options, timeout_s=timeout_s
        )

    @blocking
    def fsck(
        self, device: str, fstype: str, *, full: bool = False, timeout_s: float = FSCK_S
    ) -> FsckResult:
        return filesystems.fsck(device, fstype, full=full, timeout_s=timeout_s)

    @blocking
    def grow_filesystem(
        self, device: str, mountpoint: str, fstype: str, *, timeout_s: float = MKFS_S
    ) -> None:
        filesystems.grow(device, mountpoint, fstype, timeout_s=timeout_s)

    @blocking
    def trim(self, mountpoint: str, *, timeout_s: float = MKFS_S) -> int | None:
        return filesystems.trim(mountpoint, timeout_s=timeout_s)

    @blocking
    def sync(self, mountpoint: str, *, timeout_s: float = QUICK_S) -> None:
        filesystems.sync(mountpoint, timeout_s=timeout_s)

    @blocking
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
        mounts.mount(
            device, directory, fstype, options=options, read_only=read_only, timeout_s=timeout_s
        )

    @blocking
    def bind(
        self, source: str, target: str, *, read_only: bool = False, timeout_s: float = QUICK_S
    ) -> None:
        mounts.bind(source, target, read_only=read_only, timeout_s=timeout_s)

    @blocking
    def umount(
        self,
        path: str,
        *,
        lazy: bool = False,
        force: bool = False,
        timeout_s: float = QUICK_S,
    ) -> bool:
        return mounts.umount(path, lazy=lazy, force=force, timeout_s=timeout_s)

    def mounts(self) -> list[MountEntry]:
        return mountinfo.read()

    @blocking
    def mount_users(self, mountpoint: str) -> list[ProcessUser]:
        return busy.mount_users(mountpoint)

    @blocking
    def prepare_directory(self, path: str, *, mode: int = 0o700) -> None:
        mounts.prepare_directory(path, mode)

    @blocking
    def make_private_unbindable(self, directory: str) -> None:
        mounts.make_private_unbindable(directory)

    def open_fuse(self) -> int:
        return fuse_mount.open_fuse()

    @blocking
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
        return fuse_mount.fuse_mount(
            fd, mountpoint, source=source, subtype=subtype, rootmode=rootmode, options=options
        )

    def fuse_connection_of(self, mountpoint: str) -> int | None:
        return fuse_mount.connection_of(mountpoint)

    def fuse_connections(self) -> list[FuseConnection]:
        return fuse_mount.connections()

    def fuse_abort(self, number: int) -> bool:
        return fuse_mount.abort(number)

    def protect_process(
        self,
        *,
        io_flusher: bool = True,
        lock_memory: bool = True,
        oom_score_adj: int | None = process.DATA_PATH_OOM_SCORE_ADJ,
    ) -> list[Refusal]:
        return process.protect(
            io_flusher=io_flusher, lock_memory=lock_memory, oom_score_adj=oom_score_adj
        )

    def give_back_memory(self) -> None:
        syscalls.malloc_trim()

    def ends_as_a_whole(self) -> bool:
        return own_mounts.ends_as_a_whole()

    def own_mounts_command(self, volumes: str, needed: Sequence[str] = ()) -> list[str]:
        return own_mounts.command(volumes, needed)

    def process_group_command(self) -> list[str]:
        return process_group.command()

    @blocking
    def set_process_apart(self, pid: int) -> list[str]:
        process.spare(pid)
        return process_group.leave(pid)

    @blocking
    def remove_process_group(self) -> None:
        process_group.remove()

    @blocking
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
        return container.start(
            argv,
            rootfs=rootfs,
            binds=binds,
            hostname=hostname,
            directory=directory,
            terminal=terminal,
        )

    @blocking
    def capabilities(self) -> Capabilities:
        return capabilities.look()
