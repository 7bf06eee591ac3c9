# SPDX-License-Identifier: Apache-2.0
"""A host that exists only in memory: the double of `LinuxHost` for tests of everything above it.

It keeps a coherent picture (a loop device must be attached to be mounted, a mounted one is
busy, a bind keeps its source), records every action in order, and can fail at a chosen step,
before or after the step took effect, which is how rollback and restart are tested as a table.
The contents of a device belong to its backing file, so they are found again after a detach.
Deadlines are accepted and ignored: nothing here takes time. Like the real one it refuses to run
on the thread of an event loop.
"""
# ruff: noqa: ARG002 - the signatures are the interface's; a fake has no use for every argument

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fusefs.errors import (
    DeviceBusy,
    FormatFailed,
    LoopFailed,
    MountBusy,
    MountFailed,
    NotAllowed,
    NotBlank,
    ProcessUser,
)
from fusefs.host.container import Bind, Container
from fusefs.host.fake_formatting import FakeFormatting
from fusefs.host.fake_state import Action, Content, inside
from fusefs.host.filesystems import maker
from fusefs.host.interface import FSCK_S, MKFS_S, QUICK_S, Host
from fusefs.host.mounts import mount_options
from fusefs.host.records import (
    BlankCheck,
    Capabilities,
    FsckResult,
    FuseConnection,
    LoopDevice,
    MountEntry,
    Probe,
    Refusal,
    Signature,
)


@dataclass
class FakeHost(FakeFormatting, Host):
    """The fake; its fields are those of ``FakeState``."""

    # -- loop devices ---------------------------------------------------------------------------

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
        arguments = {"block_size": block_size, "read_only": read_only, "held": held}
        with self._step("loop_attach", file=file, **arguments):
            number = next(n for n in itertools.count() if n not in self._loops)
            size = self.content(file).size_bytes
            device = LoopDevice(
                f"/dev/loop{number}",
                number,
                file,
                block_size,
                size,
                read_only,
                direct_io,
                next(self._sequence),
            )
            self._loops[number] = device
        return device

    def loop_detach(
        self, device: LoopDevice, *, lazy: bool = False, timeout_s: float = QUICK_S
    ) -> None:
        with self._step("loop_detach", device=device.path, lazy=lazy):
            present = self._loops.get(device.number)
            if present is None or not present.same_attachment(device):
                return
            mounted = [one.mountpoint for one in self._mounts if one.source == device.path]
            users = self.users.get(device.path, [])
            if (mounted or users) and not lazy:
                raise DeviceBusy(device.path, mounts=mounted, users=users)
            del self._loops[device.number]

    def loop_set_capacity(self, device: LoopDevice, *, timeout_s: float = QUICK_S) -> LoopDevice:
        with self._step("loop_set_capacity", device=device.path):
            present = self._loops.get(device.number)
            if present is None or not present.same_attachment(device):
                raise LoopFailed(device.backing_file, "it is not attached any more")
            grown = replace(present, size_bytes=self.content(present.backing_file).size_bytes)
            self._loops[device.number] = grown
        return grown

    def loop_follow(self, file: str, *, timeout_s: float = QUICK_S) -> None:
        with self._step("loop_follow", file=file):
            size = self.content(file).size_bytes
            for device in list(self._loops.values()):
                if device.backing_file == file and size > device.size_bytes:
                    self._loops[device.number] = replace(device, size_bytes=size)

    def loop_list(self) -> list[LoopDevice]:
        return list(self._loops.values())

    # -- what is on a device --------------------------------------------------------------------

    def probe(self, device: str, *, timeout_s: float = QUICK_S) -> Probe:
        with self._step("probe", device=device):
            content = self._content_of(device)
        own = Signature(content.fstype, "filesystem", 0, content.uuid, content.label)
        return Probe(
            device=device,
            fstype=content.fstype,
            uuid=content.uuid,
            label=content.label,
            usage="filesystem" if content.fstype else "",
            signatures=((own,) if content.fstype else ()) + content.signatures,
            log_pending=content.log_pending,
            mark=content.mark,
            unfinished=content.mark is not None and not content.fstype,
        )

    def read_blank(self, device: str, *, timeout_s: float = QUICK_S) -> BlankCheck:
        with self._step("read_blank", device=device):
            content = self._content_of(device)
        at = 0 if content.fstype or content.signatures else content.first_nonzero
        return BlankCheck(device, content.size_bytes, at)

    def assert_formattable(self, device: str, *, timeout_s: float = 2 * QUICK_S) -> None:
        with self._step("assert_formattable", device=device):
            content = self._content_of(device)
            if content.fstype:
                raise NotBlank(device, f"{content.fstype} filesystem", offset=0)
            if content.signatures:
                raise NotBlank(device, str(content.signatures[0]))
            if content.first_nonzero is not None:
                raise NotBlank(
                    device, "data without a known signature", offset=content.first_nonzero
                )

    # -- filesystems ----------------------------------------------------------------------------

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
        with self._step("mkfs", device=device, fstype=fstype, label=label):
            maker(fstype)
            content = self._content_of(device)
            if any(one.path == device and one.read_only for one in self._loops.values()):
                raise FormatFailed(
                    ("mkfs", device),
                    device=device,
                    fstype=fstype,
                    exit_status=1,
                    output="read-only",
                )
            content.fstype, content.label = fstype, label
            content.uuid = uuid or f"00000000-0000-4000-8000-{next(self._sequence):012d}"

    def fsck(
        self, device: str, fstype: str, *, full: bool = False, timeout_s: float = FSCK_S
    ) -> FsckResult:
        with self._step("fsck", device=device, fstype=fstype, full=full):
            answer = self._content_of(device).fsck
            if isinstance(answer, Exception):
                raise answer
        return answer or FsckResult(ran=fstype == "ext4" or full)

    def grow_filesystem(
        self, device: str, mountpoint: str, fstype: str, *, timeout_s: float = MKFS_S
    ) -> None:
        with self._step("grow_filesystem", device=device, mountpoint=mountpoint, fstype=fstype):
            self._content_of(device)

    def trim(self, mountpoint: str, *, timeout_s: float = MKFS_S) -> int | None:
        with self._step("trim", mountpoint=mountpoint):
            return 0

    def sync(self, mountpoint: str, *, timeout_s: float = QUICK_S) -> None:
        with self._step("sync", mountpoint=mountpoint):
            pass

    # -- mounts ---------------------------------------------------------------------------------

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
        with self._step(
            "mount",
            device=device,
            directory=directory,
            fstype=fstype,
            options=tuple(options),
            read_only=read_only,
        ):
            _, data = mount_options(fstype, options, read_only)
            content = self._content_of(device)
            if content.fstype != fstype:
                raise MountFailed(device, directory, 22, fstype=fstype)
            read_only_device = any(d.path == device and d.read_only for d in self._loops.values())
            if read_only_device and not read_only and "ro" not in options:
                raise MountFailed(device, directory, 13, fstype=fstype)
            number = int(device.removeprefix("/dev/loop"))
            self._add_mount(
                device,
                directory,
                fstype,
                read_only or "ro" in options,
                device=(7, number),
                options=data,
            )

    def bind(
        self, source: str, target: str, *, read_only: bool = False, timeout_s: float = QUICK_S
    ) -> None:
        with self._step("bind", source=source, target=target, read_only=read_only):
            if any(device.path == source for device in self._loops.values()):
                node = "/" + source.rpartition("/")[2]
                self._add_mount("udev", target, "devtmpfs", read_only, root=node)
                return
            below = max(
                (one for one in self._mounts if inside(source, one.mountpoint)),
                key=lambda one: (len(one.mountpoint), one.mount_id),
            )
            if below.unbindable:
                raise MountFailed(source, target, 22)
            self._add_mount(
                below.source,
                target,
                below.fstype,
                read_only or "ro" in below.options,
                device=(below.major, below.minor),
            )

    def umount(
        self,
        path: str,
        *,
        lazy: bool = False,
        force: bool = False,
        timeout_s: float = QUICK_S,
    ) -> bool:
        with self._step("umount", path=path, lazy=lazy, force=force):
            entry = next((one for one in reversed(self._mounts) if one.mountpoint == path), None)
            if entry is None:
                return False
            below = [o.mountpoint for o in self._mounts if o.parent_id == entry.mount_id]
            users = self.users.get(path, [])
            if (below or users) and not lazy:
                raise MountBusy(path, users=users, mounts=below)
            gone = {entry.mount_id}
            for one in self._mounts:
                if one.parent_id in gone:
                    gone.add(one.mount_id)
            self._mounts = [one for one in self._mounts if one.mount_id not in gone]
            if entry.fstype.startswith("fuse"):
                self._connections.pop(entry.minor, None)
        return True

    def mounts(self) -> list[MountEntry]:
        return list(self._mounts)

    def mount_users(self, mountpoint: str) -> list[ProcessUser]:
        return list(self.users.get(mountpoint, []))

    def prepare_directory(self, path: str, *, mode: int = 0o700) -> None:
        with self._step("prepare_directory", path=path, mode=mode):
            pass

    def make_private_unbindable(self, directory: str) -> None:
        with self._step("make_private_unbindable", directory=directory):
            for index, one in enumerate(self._mounts):
                if one.mountpoint == directory:
                    self._mounts[index] = replace(one, unbindable=True)
                    return
            self._add_mount("/dev/root", directory, "ext4", False, unbindable=True)

    # -- FUSE -----------------------------------------------------------------------------------

    def open_fuse(self) -> int:
        with self._step("open_fuse"):
            return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)

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
        with self._step("fuse_mount", mountpoint=mountpoint, source=source, subtype=subtype):
            number = next(self._ids)
            kind = f"fuse.{subtype}" if subtype else "fuse"
            self._add_mount(source, mountpoint, kind, False, device=(0, number), options=options)
            self._connections[number] = FuseConnection(number, 0)
        return number

    def fuse_connection_of(self, mountpoint: str) -> int | None:
        for one in reversed(self._mounts):
            if one.mountpoint == mountpoint:
                return one.minor if one.fstype.startswith("fuse") else None
        return None

    def fuse_connections(self) -> list[FuseConnection]:
        return list(self._connections.values())

    def fuse_abort(self, number: int) -> bool:
        with self._step("fuse_abort", number=number):
            return self._connections.pop(number, None) is not None

    # -- processes ------------------------------------------------------------------------------

    def protect_process(
        self,
        *,
        io_flusher: bool = True,
        lock_memory: bool = True,
        oom_score_adj: int | None = -999,
    ) -> list[Refusal]:
        with self._step("protect_process"):
            return list(self.refusals)

    def give_back_memory(self) -> None:
        pass

    def ends_as_a_whole(self) -> bool:
        return self.in_a_container

    def own_mounts_command(self, volumes: str, needed: Sequence[str] = ()) -> list[str]:
        return []

    def process_group_command(self) -> list[str]:
        return []

    def set_process_apart(self, pid: int) -> list[str]:
        return []

    def remove_process_group(self) -> None:
        pass

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
        raise NotAllowed("start a container", "this host is a fake")

    def capabilities(self) -> Capabilities:
        return Capabilities(
            kernel_version="6.1.0",
            is_root=True,
            effective_capabilities=(1 << 41) - 1,
            has_fuse=True,
            has_loop=True,
            filesystems=frozenset(("ext4", "xfs", "btrfs", "fuse")),
        )


__all__ = ["Action", "Content", "FakeHost"]
