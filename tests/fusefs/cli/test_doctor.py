# SPDX-License-Identifier: Apache-2.0
"""doctor: every fact that is missing is told with a remedy, and leftovers are found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusefs.cli import doctor, leftovers
from fusefs.host import Capabilities, FakeHost, LinuxHost
from tests.fusefs.cli.harness import MEBI, Cli
from tests.support.requirements import require_module
from tests.support.tgt import TgtServer

ALL = Capabilities(
    kernel_version="6.12.0",
    is_root=True,
    effective_capabilities=-1,
    has_fuse=True,
    has_loop=True,
    filesystems=frozenset({"ext4", "xfs", "btrfs"}),
    programs=dict.fromkeys(
        ("blkid", "wipefs", "mkfs.ext4", "e2fsck", "mkfs.xfs", "mkfs.btrfs", "busybox"), "/x"
    ),
    io_flusher_allowed=True,
    memory_lock_allowed=True,
    oom_score_adj_allowed=True,
    fuse_control_allowed=True,
    docker_socket="/run/docker.sock",
)


class Shown(FakeHost):
    """A host with these capabilities."""

    can: Capabilities

    def capabilities(self) -> Capabilities:
        return self.can


def findings(**changes: Any) -> dict[str, doctor.Finding]:
    host = Shown()
    host.can = replace(ALL, **changes)
    return {finding.what: finding for finding in doctor.look(host)}


def test_a_host_that_has_everything() -> None:
    worse = [one.what for one in findings().values() if one.level != doctor.OK]
    assert set(worse) <= {"uvloop", "pyfuse3", "crc32c"}  # what this very Python lacks


@pytest.mark.parametrize(
    ("changes", "what", "level", "remedy"),
    [
        ({"is_root": False}, "root", doctor.MISSING, "root"),
        ({"has_fuse": False}, "/dev/fuse", doctor.MISSING, "modprobe fuse"),
        ({"has_loop": False}, "loop devices", doctor.MISSING, "modprobe loop"),
        ({"filesystems": frozenset({"ext4"})}, "xfs", doctor.LESS, "modprobe xfs"),
        ({"programs": {}}, "ext4", doctor.LESS, "e2fsprogs"),
        ({"programs": {}}, "btrfs", doctor.LESS, "btrfs-progs"),
        ({"programs": {}}, "blkid, wipefs", doctor.MISSING, "util-linux"),
        ({"programs": {}}, "busybox", doctor.LESS, "busybox-static"),
        ({"io_flusher_allowed": False}, "PR_SET_IO_FLUSHER", doctor.LESS, "CAP_SYS_RESOURCE"),
        ({"memory_lock_allowed": False}, "locked memory", doctor.LESS, "CAP_SYS_RESOURCE"),
        ({"oom_score_adj_allowed": False}, "oom_score_adj", doctor.LESS, "CAP_SYS_RESOURCE"),
        ({"fuse_control_allowed": False}, "FUSE control", doctor.LESS, "root"),
        ({"docker_socket": None}, "Docker Engine", doctor.LESS, "start"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_is_told(
    changes: dict[str, Any], what: str, level: str, remedy: str
) -> None:
    found = findings(**changes)[what]
    assert found.level == level
    assert remedy in found.remedy


def test_on_this_host(cli: Cli) -> None:
    found = {one["what"]: one for one in cli("doctor", "--json").json}
    assert found["kernel"]["found"] == os.uname().release
    assert found["root"]["level"] == ("ok" if os.geteuid() == 0 else "missing")
    assert found["initiator name"]["found"]
    done = cli("doctor")
    assert done.status == int(any(one["level"] == "missing" for one in found.values()))
    assert len(done.out.splitlines()) == len(found)
    assert not (Path(cli.environment["PYSCSI_INIT_STATE_DIR"])).exists()


@pytest.mark.root
@pytest.mark.tgt
def test_a_dead_worker_is_found(tgt: TgtServer, cli: Cli) -> None:
    require_module("pyfuse3")  # with the native channel another one would follow
    attach = ("attach", tgt.url(1, 1), "--name", "dead", "--fuse", "pyfuse3")
    assert cli(*attach).status == 0
    (volume,) = cli("status", "--json").json
    os.kill(volume["worker_pid"], signal.SIGKILL)
    found = [one for one in cli("doctor", "--json").json if one["what"] == "volume"]
    assert "dead" in found[0]["found"]
    assert found[0]["remedy"] == "pyscsi-init umount dead --force"
    assert cli("umount", "dead", "--force").status == 0
    assert "failed" not in cli("doctor").out
    assert volume["size_bytes"] == 64 * MEBI


@pytest.mark.root
def test_pieces_without_a_volume_are_found(cli: Cli, tmp_path: Path) -> None:
    image = cli.run_dir / "volumes/lost/image"
    image.parent.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(MEBI)
    host = LinuxHost()
    device = host.loop_attach(str(image), block_size=512)
    try:
        found = [one for one in cli("doctor", "--json").json if one["what"] == "leftover"]
        # A directory without a state file is nobody's volume.
        assert [one["remedy"] for one in found] == [f"losetup -d {device.path}"]
        assert str(image) in found[0]["found"]
        assert any(str(image) in text for text in leftovers.of_directory(host, tmp_path))
    finally:
        host.loop_detach(device)
    assert leftovers.of_directory(host, tmp_path) == []


def test_processes_are_found_by_environment_and_arguments(tmp_path: Path) -> None:
    def start(*arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | variables,
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    mine, named, other = start(WHERE=f"{tmp_path}/run"), start(str(tmp_path)), start()
    try:
        found = leftovers.processes_of(str(tmp_path))
        assert set(found) == {mine.pid, named.pid}
    finally:
        for process in (mine, named, other):
            process.communicate(b"\n", timeout=10)


@pytest.mark.parametrize(
    ("path", "is_under"), [("/a", True), ("/a/b", True), ("/ab", False), ("/", False)]
)
def test_is_under(path: str, is_under: bool) -> None:
    assert leftovers.is_under(path, "/a") is is_under
