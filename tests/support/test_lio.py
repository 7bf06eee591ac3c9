# SPDX-License-Identifier: Apache-2.0
"""The LIO of the tests does what its methods say, as an independent initiator sees it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.lio import LioServer
from tests.support.requirements import require
from tests.support.uml import GuestError

MEBI = 1 << 20

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lio() -> Iterator[LioServer]:
    with LioServer() as server:
        yield server


def run(lio: LioServer, program: str, *arguments: str) -> str:
    return lio.namespace.run(require(program), *arguments)


def test_a_lun_is_seen_and_holds_data(lio: LioServer) -> None:
    tid = lio.new_disk(64 * MEBI)
    assert "Lun:0    Type:DIRECT_ACCESS (Size:63M)" in run(
        lio, "iscsi-ls", "-s", f"iscsi://{lio.portal}"
    )
    assert "Vendor:LIO-ORG" in run(lio, "iscsi-inq", lio.url(tid))
    qemu_io = ("qemu-io", "-f", "raw")
    run(lio, *qemu_io, "-c", "write -P 0x5a 1M 4k", lio.url(tid))
    assert "verification failed" not in run(lio, *qemu_io, "-c", "read -P 0x5a 1M 4k", lio.url(tid))
    lio.wait_sessions(tid, 0)


def test_chap_digests_and_block_size(lio: LioServer) -> None:
    tid = lio.new_disk(8 * MEBI, block_size=4096)
    lio.require_chap(
        tid, "user", "secretsecret12", mutual_user="target", mutual_secret="mutualsecret12"
    )
    url = lio.url(tid).replace("iscsi://", "iscsi://user%secretsecret12@")
    assert "BLOCK LENGTH IN BYTES:4096" in run(lio, "iscsi-readcapacity16", url)
    mutual = f"{url}?target_user=target&target_password="
    run(lio, "iscsi-inq", f"{mutual}mutualsecret12&header_digest=crc32c")
    for wrong in (lio.url(tid), f"{mutual}another-secret"):
        with pytest.raises(subprocess.CalledProcessError):
            run(lio, "iscsi-inq", wrong)


def test_a_slow_backend_answers_late(lio: LioServer) -> None:
    tid = lio.new_disk(8 * MEBI, backend="slow")
    read = ("qemu-io", "-f", "raw", "-c", "read 0 4k", lio.url(tid))
    run(lio, *read)
    lio.set_delay(0.5)
    started = time.monotonic()
    run(lio, *read)
    assert time.monotonic() - started > 0.5
    lio.set_delay(0)


def test_a_write_is_held_while_others_pass(lio: LioServer) -> None:
    tid = lio.new_target("iqn.2026-11.example:held")
    store = lio.add_lun(tid, 0, 8 * MEBI, backend="held").store
    assert store is not None
    url = lio.url(tid)
    store.hold(MEBI, MEBI + 4096)
    write = ("qemu-io", "-f", "raw", "-c")
    held = lio.namespace.command(*write, "write -P 0x11 1M 4k", url)
    with subprocess.Popen(held, stdout=subprocess.DEVNULL) as process:
        store.wait_held()
        run(lio, *write, "write -P 0x22 1M 4k", url)
        assert store.data[MEBI : MEBI + 4096] == b"\x22" * 4096
        assert process.poll() is None
        store.release()
        assert process.wait(20) == 0
    assert store.data[MEBI : MEBI + 4096] == b"\x11" * 4096


def test_restart_keeps_what_was_set_up(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with LioServer() as lio:
        tid = lio.new_disk(16 * MEBI, backend="file", file=disk)
        url = lio.url(tid)
        identity = run(lio, "iscsi-inq", "-e", "1", "-c", "131", url)
        run(lio, "qemu-io", "-f", "raw", "-c", "write -P 0x77 0 64k", url)
        assert disk.read_bytes()[:65536] == b"\x77" * 65536
        before = lio.pid
        lio.kill()
        assert not processes.is_alive(before)
        with pytest.raises(subprocess.CalledProcessError):
            run(lio, "iscsi-inq", url)
        lio.start()
        assert run(lio, "iscsi-inq", "-e", "1", "-c", "131", url) == identity
        assert "verification failed" not in run(
            lio, "qemu-io", "-f", "raw", "-c", "read -P 0x77 0 64k", url
        )
        parts = {lio.pid, *processes.children(lio.pid)}
        assert len(parts) > 1
    assert not any(processes.is_alive(pid) for pid in parts)
    assert not lio.namespace.path.exists()
    assert not lio.guest.directory.exists()


def test_the_guest_keeps_no_mount_of_the_machine_busy(lio: LioServer) -> None:
    assert os.readlink(f"/proc/{lio.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    assert os.readlink(f"/proc/{lio.pid}/ns/net") != os.readlink("/proc/self/ns/net")


def test_a_refusal_is_an_error_and_tells_why(lio: LioServer) -> None:
    with pytest.raises(GuestError, match="No such file"):
        lio.guest.run("cat /no/such/file")
