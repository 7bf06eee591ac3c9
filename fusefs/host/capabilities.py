# SPDX-License-Identifier: Apache-2.0
"""What this process can do on this host, found out without changing anything.

Facts for `doctor` and for choosing a channel. Each is looked up on its own, so that one that cannot
be read does not hide the others. Advice is not given here.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from fusefs.errors import VolumeError
from fusefs.host import devices, fuse_mount, loop, namespaces, process
from fusefs.host.records import Capabilities
from fusefs.host.run import find_program

PROGRAMS = (
    "blkid",
    "wipefs",
    "mkfs.ext4",
    "e2fsck",
    "resize2fs",
    "mkfs.xfs",
    "xfs_repair",
    "xfs_growfs",
    "mkfs.btrfs",
    "btrfs",
    "fusermount3",
    "busybox",
)
DOCKER_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")
_CONNECT_TIMEOUT_S = 2.0


def look() -> Capabilities:
    """Everything at once; see ``Host.capabilities``."""
    return Capabilities(
        kernel_version=os.uname().release,
        is_root=os.geteuid() == 0,
        effective_capabilities=process.effective_capabilities(),
        has_fuse=fuse_mount.has_fuse(),
        has_loop=devices.is_character_device(loop.CONTROL),
        filesystems=known_filesystems(),
        programs={name: find_program(name) for name in PROGRAMS},
        io_flusher_allowed=process.io_flusher_allowed(),
        memory_lock_allowed=process.memory_lock_allowed(),
        oom_score_adj_allowed=process.oom_score_adj_allowed(),
        fuse_control_allowed=_fuse_control_allowed(),
        docker_socket=docker_socket(),
        refused_devices=devices.refused(),
        shows_new_devices=devices.show_new_ones(),
        is_initial_user=namespaces.is_initial_user(),
        named_networks=namespaces.named_networks(),
    )


def known_filesystems() -> frozenset[str]:
    """/proc/filesystems: what the kernel has loaded; a module may bring more."""
    text = Path("/proc/filesystems").read_text()
    return frozenset(line.split()[-1] for line in text.splitlines() if line.strip())


def docker_socket(candidates: tuple[str, ...] = DOCKER_SOCKETS) -> str | None:
    """The first socket behind which something accepts a connection, or None."""
    for path in candidates:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_CONNECT_TIMEOUT_S)
            try:
                probe.connect(path)
            except OSError:
                continue
            return path
    return None


def _fuse_control_allowed() -> bool:
    try:
        with fuse_mount.control_directory():
            return True
    except VolumeError:
        return False
