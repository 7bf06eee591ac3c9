# SPDX-License-Identifier: Apache-2.0
"""Errors of a device that has errors are found in the kernel's log, and nobody else's are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.fuse_server import FuseServer, loop_device
from tests.support.kernel_log import KernelLog, quiet

pytestmark = pytest.mark.root

MEBI = 1 << 20


def write_badly(device: str) -> None:
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={device}", "bs=4k", "count=1", "seek=256", "oflag=direct"],
        capture_output=True,
        check=False,
        timeout=20,
    )


def test_an_error_of_our_device_is_found(tmp_path: Path) -> None:
    with KernelLog() as log, FuseServer(tmp_path, fault=True, size=8 * MEBI) as server:
        server.call("fail", "WRITE", MEBI, 2 * MEBI)
        with loop_device(server.path) as loop:
            name = Path(loop).name
            with open(loop, "r+b", buffering=0) as device:
                device.write(b"fine")
                os.fsync(device.fileno())
            log.check(loop)
            with open(loop, "r+b", buffering=0) as device:
                device.seek(MEBI)
                device.write(bytes(4096))
                with pytest.raises(OSError, match="error"):
                    os.fsync(device.fileno())
            found = log.trouble(loop)
            assert any(f"error, dev {name}," in line for line in found)
            assert log.trouble(loop) == []
            with pytest.raises(pytest.fail.Exception, match="the kernel reports"), quiet([loop]):
                write_badly(loop)
            with quiet([f"{loop}9", "/dev/loop"]):
                write_badly(loop)


def test_a_filesystem_error_and_a_hung_task_are_found() -> None:
    lines = [
        "EXT4-fs error (device loop5): ext4_find_entry:1463: inode #2: comm ls: reading directory",
        "Buffer I/O error on dev loop5, logical block 0, lost async page write",
        "Aborting journal on device loop5-8.",
        "JBD2: I/O error when updating journal superblock for loop5-8.",
        "XFS (loop5): log I/O error -5",
        "XFS (loop5): Filesystem has been shut down due to log error (0x2).",
        "INFO: task kworker/0:1:77 blocked for more than 120 seconds.",
    ]
    harmless = [
        "EXT4-fs (loop5): mounted filesystem with ordered data mode",
        "XFS (loop5): Starting recovery (logdev: internal)",
        "loop5: detected capacity change from 0 to 2097152",
        "operation not supported error, dev loop5, sector 8776 op 0x9:(WRITE_ZEROES) flags 0x800",
        "I/O error, dev loop55, sector 0 op 0x1:(WRITE)",
    ]

    class Told(KernelLog):
        def lines(self) -> list[str]:
            return lines + harmless

    with Told() as log:
        assert log.trouble("/dev/loop5") == lines
        assert log.trouble() == lines[-1:]
