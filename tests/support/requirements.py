# SPDX-License-Identifier: Apache-2.0
"""What a test needs from the machine, and what happens when it is not there.

On a developer's machine a missing part skips the test and names the package. With CI=true it fails:
a build machine that skips is a build machine that tests nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

PACKAGES = {
    "blkid": "util-linux",
    "busybox": "busybox-static",
    "docker": "docker.io",
    "docker-compose": "docker-compose",
    "dockerd": "docker.io",
    "fsck.ext4": "e2fsprogs",
    "fusermount3": "fuse3",
    "isnsadm": "open-isns-utils",
    "isnsd": "open-isns-server",
    "iscsi-inq": "libiscsi-bin",
    "iscsi-ls": "libiscsi-bin",
    "iscsi-perf": "libiscsi-bin",
    "iscsi-test-cu": "libiscsi-bin",
    "ip": "iproute2",
    "linux.uml": "user-mode-linux",
    "losetup": "mount",
    "modprobe": "kmod",
    "mkfs.vfat": "dosfstools",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "nsenter": "util-linux",
    "pvcreate": "lvm2",
    "qemu-img": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "qemu-nbd": "qemu-utils",
    "nbdfuse": "libnbd-bin",
    "qemu-io": "qemu-utils",
    "sfdisk": "fdisk",
    "tgtadm": "tgt",
    "tgtd": "tgt",
}
"""Program -> Debian package, where the names differ."""

KERNEL_LACKS = "this kernel"
"""A skip whose reason has these words is allowed on a build machine too: no package helps there."""

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def on_ci() -> bool:
    """True on a build machine, where every part must be there."""
    return os.environ.get("CI", "").lower() == "true"


def missing(reason: str) -> NoReturn:
    """End the test: failed on a build machine, skipped elsewhere."""
    if on_ci():
        pytest.fail(f"{reason} (CI=true: nothing may be missing)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def require(program: str, package: str | None = None) -> str:
    """Return the path of ``program``, or end the test."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SBIN}")
    if path is None:
        package = package or PACKAGES.get(program, program)
        missing(f"{program} is not installed (Debian package {package})")
    return path


def require_module(name: str) -> None:
    """End the test unless the Python module ``name`` can be imported."""
    if importlib.util.find_spec(name) is None:
        missing(f"the Python module {name} is not installed")


def require_root() -> None:
    """End the test unless it runs as root with a loop control and a FUSE device."""
    if os.geteuid() != 0:
        missing("needs root")
    for device in ("/dev/loop-control", "/dev/fuse"):
        if not Path(device).exists():
            missing(f"needs {device}")
