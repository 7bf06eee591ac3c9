# SPDX-License-Identifier: Apache-2.0
"""doctor: every fact that is missing is told with a remedy, and leftovers are found."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusefs.cli import doctor, leftovers
from fusefs.cli.extras import EXTRAS
from fusefs.host import Capabilities, FakeHost, LinuxHost
from tests.fusefs.cli.harness import MEBI, Cli
from tests.support.requirements import require, require_module
from tests.support.source import ROOT
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


def refused(device: str, number: int) -> dict[str, Any]:
    """A device that is there and cannot be opened."""
    return {"refused_devices": {device: number}}


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
    lacks = {"crc32c", *(f"extra {extra.name}" for extra in EXTRAS)}
    assert set(worse) <= lacks  # of this very Python


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
        ({"kernel_version": "5.4.0-1"}, "kernel", doctor.MISSING, "newer"),
        ({"kernel_version": "5.10.0-8-amd64"}, "kernel", doctor.LESS, "on the host"),
        ({"effective_capabilities": 0}, "CAP_SYS_ADMIN", doctor.MISSING, "--cap-add SYS_ADMIN"),
        ({"is_initial_user": False}, "user namespace", doctor.MISSING, "hostUsers: true"),
        (refused("/dev/fuse", errno.EPERM), "/dev/fuse", doctor.MISSING, "--device /dev/fuse"),
        (refused("/dev/fuse", errno.ENODEV), "/dev/fuse", doctor.MISSING, "modprobe fuse"),
        (refused("/dev/loop-control", errno.EACCES), "loop devices", doctor.MISSING, "as root"),
        (refused("/dev/loop3", errno.EPERM), "loop devices", doctor.MISSING, "'b 7:* rwm'"),
        (refused("/dev/loop3", errno.ENXIO), "loop devices", doctor.MISSING, "modprobe loop"),
        ({"shows_new_devices": False}, "loop devices", doctor.LESS, "host's /dev"),
        ({"named_networks": {"a": False}}, "named networks", doctor.LESS, "HostToContainer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_is_told(
    changes: dict[str, Any], what: str, level: str, remedy: str
) -> None:
    found = findings(**changes)[what]
    assert found.level == level
    assert remedy in found.remedy


def test_each_extra_is_told_by_its_own_name() -> None:
    """The table is that of pyproject.toml, and the modules are those of the distributions."""
    text = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = text["project"]["optional-dependencies"]
    told = {extra.name: set(extra.modules) for extra in EXTRAS}
    assert told == {
        name: {re.match(r"[\w.-]+", each)[0] for each in lines}  # type: ignore[index]
        for name, lines in extras.items()
    }
    modules = importlib.metadata.packages_distributions()
    for extra in EXTRAS:
        for distribution, module in extra.modules.items():
            if distribution not in extra.missing():
                names = {name.lower() for name in modules[module.partition(".")[0]]}
                assert distribution in names


def test_an_extra_that_is_not_installed_is_told(cli: Cli, tmp_path: Path) -> None:
    """A Python that cannot import it: each of its modules is looked for in vain."""
    blind = tmp_path / "sitecustomize.py"
    blind.write_text(
        "import sys\n"
        "class Blind:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('uvicorn', 'google', 'ruamel'):\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Blind())\n"
    )
    cli.environment["PYTHONPATH"] = os.pathsep.join(
        [str(tmp_path), cli.environment.get("PYTHONPATH", "")]
    )
    found = {one["what"]: one for one in cli("doctor", "--json").json}
    assert found["extra docker"]["found"].startswith("uvicorn not installed: ")
    assert found["extra csi"]["found"].startswith("protobuf, ruamel.yaml not installed: ")
    assert found["extra csi"]["remedy"] == "pip install 'pyscsi-init[csi]'"
    assert cli("doctor").status == int(any(one["level"] == "missing" for one in found.values()))


@pytest.mark.root
def test_root_of_a_user_namespace_is_told(cli: Cli) -> None:
    within = ("unshare", "--user", "--map-root-user")
    (found,) = (one for one in doctor_within(cli, *within) if one["what"] == "user namespace")
    assert found["level"] == "missing"


@pytest.mark.root
def test_networks_whose_mount_did_not_come_in_are_told(cli: Cli) -> None:
    """What a container sees of a namespace that was named after it had started: an empty file."""
    here = "mkdir -p /run/netns; mount -t tmpfs none /run/netns; touch /run/netns/one; "
    here += "touch /run/netns/two; mount --bind /proc/self/ns/net /run/netns/two; "
    within = ("unshare", "--mount", "sh", "-ec", here + '"$@"', "sh")
    (found,) = (one for one in doctor_within(cli, *within) if one["what"] == "named networks")
    assert found["found"].startswith("one in /run/netns cannot be entered")


def doctor_within(cli: Cli, *command: str) -> Any:
    """What doctor finds where ``command`` starts it."""
    program = require(command[0])
    done = subprocess.run(
        [program, *command[1:], sys.executable, "-m", "fusefs.cli", "doctor", "--json"],
        capture_output=True,
        text=True,
        env={**cli.environment, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


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
