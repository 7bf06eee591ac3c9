# SPDX-License-Identifier: Apache-2.0
"""The tgt of the tests does what its methods say, as an independent initiator sees it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.requirements import require
from tests.support.tgt import TgtError, TgtServer, free_port

IQN = "iqn.2026-01.org.example:disk1"
MEBI = 1 << 20

pytestmark = pytest.mark.tgt


@pytest.fixture
def tgt() -> Iterator[TgtServer]:
    with TgtServer(ipv6=True) as server:
        yield server


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [require(program), *arguments], capture_output=True, text=True, timeout=20, check=False
    )


def test_a_lun_is_seen_on_both_portals(tgt: TgtServer, tmp_path: Path) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=8 * MEBI, params={"scsi_sn": "serial7"})
    for portal in (tgt.portal, tgt.portal6):
        listed = run("iscsi-ls", "-s", f"iscsi://{portal}")
        assert f"Target:{IQN}" in listed.stdout
        assert "Lun:1    Type:DIRECT_ACCESS (Size:7M)" in listed.stdout
    assert "serial7" in run("iscsi-inq", "-e", "1", "-c", "128", tgt.url(tid, 1)).stdout
    tgt.wait_sessions(0)


def test_block_size_and_read_only(tgt: TgtServer, tmp_path: Path) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "a", size_bytes=MEBI, block_size=4096, readonly=True)
    shown = run("iscsi-readcapacity16", tgt.url(tid, 1)).stdout
    assert "LOGICAL BLOCK LENGTH IN BYTES:4096" in shown
    mode = run("qemu-io", "-f", "raw", "-c", "write 0 4096", tgt.url(tid, 1))
    assert mode.returncode != 0
    assert tgt.luns[tid, 1].params == {"readonly": "1"}


def test_chap_both_ways(tgt: TgtServer) -> None:
    tid = tgt.new_target(IQN)
    tgt.require_chap(tid, "user", "secretsecret12")
    tgt.require_chap(tid, "target", "mutualsecret12", outgoing=True)
    good = f"iscsi://user%secretsecret12@{tgt.portal}/{IQN}/0"
    assert run("iscsi-inq", good).returncode == 0
    mutual = f"{good}?target_user=target&target_password="
    assert run("iscsi-inq", f"{mutual}mutualsecret12").returncode == 0
    assert run("iscsi-inq", f"{mutual}another-secret").returncode != 0
    assert run("iscsi-inq", tgt.url(tid, 0)).returncode != 0


def test_restart_keeps_port_and_configuration(tgt: TgtServer, tmp_path: Path) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=MEBI, thin=True)
    tgt.allow_digests(tid)
    before = tgt.pid
    tgt.kill()
    assert not processes.is_alive(before)
    assert run("iscsi-inq", tgt.url(tid, 1)).returncode != 0
    tgt.restart()
    assert tgt.pid != before
    assert run("iscsi-inq", tgt.url(tid, 1)).returncode == 0
    crc = run("iscsi-inq", f"{tgt.url(tid, 1)}?header_digest=crc32c")
    assert crc.returncode == 0


def test_grow_and_offline(tgt: TgtServer, tmp_path: Path) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=8 * MEBI)
    tgt.grow(tid, 1, 16 * MEBI)
    assert "Size:15M" in run("iscsi-ls", "-s", f"iscsi://{tgt.portal}").stdout
    tgt.set_online(tid, 1, False)
    assert run("iscsi-readcapacity16", tgt.url(tid, 1)).returncode != 0


def test_redirect(tgt: TgtServer, tmp_path: Path) -> None:
    with TgtServer(address="127.0.0.2") as other:
        there = other.new_target(IQN)
        other.add_lun(there, 1, tmp_path / "disk", size_bytes=MEBI)
        tid = tgt.new_target(IQN)
        tgt.redirect(tid, other.address, other.port)
        assert run("iscsi-inq", tgt.url(tid, 1)).returncode == 0


def test_sessions_are_listed_and_a_held_write_is_held(tmp_path: Path) -> None:
    """A write that the backing store holds keeps its session; released, it lands."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MEBI))
    with TgtServer(fault_on=disk) as tgt:
        assert tgt.fault is not None
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, disk)
        tgt.fault.hold(0, 4096)
        command = [require("qemu-io"), "-f", "raw", "-c", "write -P 0x5a 0 4096", tgt.url(tid, 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            tgt.fault.wait_held()
            (nexus,) = tgt.sessions()
            assert (nexus.tid, nexus.connections) == (tid, (0,))
            assert disk.read_bytes()[:4096] == bytes(4096)
            assert process.poll() is None
            tgt.fault.release()
            assert process.wait(20) == 0, process.stdout and process.stdout.read()
        assert disk.read_bytes()[:4096] == b"\x5a" * 4096
        tgt.wait_sessions(0)


def test_a_refusal_is_an_error(tgt: TgtServer) -> None:
    tgt.new_target(IQN)
    with pytest.raises(TgtError, match="exist"):
        tgt.new_target(IQN)
    with pytest.raises(TgtError):
        tgt.set_param(1, "NoSuchKey", 1)


def test_a_port_in_use_is_an_error(tgt: TgtServer) -> None:
    with pytest.raises(TgtError, match="did not start"):
        TgtServer(port=tgt.port).__enter__()


def test_free_port_is_free() -> None:
    assert 1024 < free_port(ipv6=True) < 65536
