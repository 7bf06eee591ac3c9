# SPDX-License-Identifier: Apache-2.0
"""Filesystems made and checked by their own programs, in the file that a target serves."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .requirements import require

FILESYSTEMS = ("ext4", "xfs", "btrfs")
CHECKS = {
    "ext4": ("e2fsck", "-f", "-n"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
}


def make_filesystem(fstype: str, disk: Path) -> None:
    """Make one, with a UUID of its own, on a file that has its size already."""
    force = "-F" if fstype == "ext4" else "-f"
    subprocess.run([require(f"mkfs.{fstype}"), "-q", force, str(disk)], check=True, timeout=60)


def fsck_is_clean(fstype: str, disk: Path) -> None:
    """Fail unless the filesystem is whole. xfs_repair refuses a log that was not replayed: after a
    crash mount it once before."""
    program, *options = CHECKS[fstype]
    checked = subprocess.run(
        [require(program), *options, str(disk)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
