# SPDX-License-Identifier: Apache-2.0
"""The managed plugin in a real Docker Engine, from `docker plugin create` to `docker plugin rm`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import built, images, processes
from tests.support.dockerd import PLUGIN, DockerEngine, wait_until
from tests.support.filesystems import fsck_is_clean
from tests.support.lonely_target import LonelyTarget
from tests.support.tgt import TgtServer

IQN = "iqn.2026-01.org.example:managed"
CAPABILITIES = {
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
}
USE = ("run", "--rm", "--volume", "data:/data", images.WORKER, "sh", "-c")
APPEND = "while :; do date >> /data/log && sync || echo FAILED; sleep 0.1; done"

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(900)]


class Managed:
    """An engine with the managed plugin, and a target."""

    def __init__(self, engine: DockerEngine, tgt: TgtServer, directory: Path) -> None:
        self.engine = engine
        self.tgt = tgt
        self.disk = directory / "disk"
        self.plugin_id = engine.docker("plugin", "inspect", "--format={{.Id}}", PLUGIN).strip()

    def processes(self, name: str) -> list[int]:
        """Those of the plugin, by a part of the command line."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                inside = self.plugin_id in Path("/proc", entry, "cgroup").read_text()
                if inside and name in processes.command_line(int(entry)):
                    found.append(int(entry))
        return found

    def left(self) -> list[str]:
        """Mounts below the propagated mount, and loop devices of the plugin's files."""
        inside = [
            str(mounted)
            for mounted in self.engine.namespace.mounts()
            if "/propagated-mount/" in mounted.mountpoint
        ]
        backing = Path("/sys/block").glob("loop*/loop/backing_file")
        files = (path.read_text().strip() for path in backing)
        return inside + [file for file in files if "/mnt/pyscsi-init/run/" in file]


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    directory = tmp_path_factory.mktemp("managed")
    source = built.plugin_directory(directory)
    _without_what_this_machine_cannot_give(source / "config.json")
    with (
        TgtServer() as tgt,
        DockerEngine(directory / "engine", plugin=False) as engine,
    ):
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, directory / "disk", size_bytes=64 << 20)
        engine.import_image(images.worker_archive(), images.WORKER)
        engine.docker("plugin", "create", PLUGIN, str(source))
        shutil.rmtree(source)
        for name in ("state", "secrets"):
            (directory / name).mkdir()
            engine.docker("plugin", "set", PLUGIN, f"{name}.source={directory / name}")
        engine.docker("plugin", "enable", PLUGIN)
        engine.create_volume(
            "data", portal=tgt.portal, target=IQN, lun=1, fstype="ext4", mkfs="true"
        )
        yield Managed(engine, tgt, directory)
        engine.remove_containers()
        engine.docker("volume", "rm", "data")
        engine.docker("plugin", "disable", PLUGIN)
        engine.docker("plugin", "rm", PLUGIN)
        assert engine.docker("plugin", "ls", "--quiet") == ""
        assert list((directory / "state/volumes").iterdir()) == []
    fsck_is_clean("ext4", directory / "disk")


def _without_what_this_machine_cannot_give(config: Path) -> None:
    """Capabilities that a test run has not are none that its engine can pass on."""
    (line,) = (
        text for text in Path("/proc/self/status").read_text().splitlines() if text[:7] == "CapBnd:"
    )
    bounding = int(line.split()[1], 16)
    values = json.loads(config.read_text())
    wanted = values["linux"]["capabilities"]
    values["linux"]["capabilities"] = [c for c in wanted if bounding >> CAPABILITIES[c] & 1]
    config.write_text(json.dumps(values))


def test_a_volume_is_used_and_given_back(managed: Managed) -> None:
    engine = managed.engine
    assert "1" in engine.docker(*USE, "echo written > /data/file; grep -c loop /proc/mounts")
    managed.tgt.wait_sessions(0, timeout=30)
    assert engine.docker(*USE, "cat /data/file").strip() == "written"
    assert not managed.left()


def test_a_session_in_a_network_namespace_of_the_host(managed: Managed, tmp_path: Path) -> None:
    """The plugin sees no /run/netns of the host, but its processes, and so what those see."""
    engine = managed.engine
    with LonelyTarget("lonely", tmp_path, iqn=IQN) as target:
        engine.create_volume(
            "lonely", portal=target.tgt.portal, target=IQN, lun=1, mkfs="true",
            network_namespace=f"/proc/{target.tgt.pid}/root{target.namespace.path}",
        )  # fmt: skip
        run = ("run", "--rm", "--volume", "lonely:/data", images.WORKER, "sh", "-c")
        engine.docker(*run, "echo written > /data/file")
        assert engine.docker(*run, "cat /data/file").strip() == "written"
        target.tgt.wait_sessions(0, timeout=30)
        engine.docker("volume", "rm", "lonely")


def test_the_front_door_may_die(managed: Managed) -> None:
    """Another one is started, the volume does not notice, and a call meanwhile waits."""
    engine = managed.engine
    writer = engine.docker(
        "run", "--detach", "--volume", "data:/data", images.WORKER, "sh", "-c", APPEND
    )
    (served,) = managed.processes("fusefs.cli serve")
    (nexus,) = managed.tgt.sessions()
    processes.end(served, how=signal.SIGKILL)
    assert engine.docker(*USE, "cat /data/file").strip() == "written"
    (follower,) = managed.processes("fusefs.cli serve")
    assert follower != served
    assert managed.tgt.sessions() == [nexus]
    assert "FAILED" not in engine.docker("logs", writer.strip())
    engine.docker("rm", "--force", writer.strip())
    managed.tgt.wait_sessions(0, timeout=30)


def test_disabling_it_under_a_container(managed: Managed) -> None:
    """Refused; by force, what was written and never flushed is on the disk, the container has
    errors, and after `enable` the volume is there for the next one."""
    engine = managed.engine
    script = "echo unflushed > /data/last; touch /written; exec sleep 1000"
    volume = ("--volume", "data:/data")
    writer = engine.docker("run", "--detach", *volume, images.WORKER, "sh", "-c", script).strip()
    written = ("exec", writer, "test", "-e", "/written")
    wait_until(lambda: not engine.docker(*written, check=False), 30, "a file is written")
    assert "is in use" in engine.docker("plugin", "disable", PLUGIN, check=False)
    engine.docker("plugin", "disable", "--force", PLUGIN)
    assert managed.processes("") == []
    assert managed.tgt.sessions() == []
    write = ("exec", writer, "dd", "if=/proc/version", "of=/data/more", "conv=fsync")
    assert re.search("(?i)read-only|I/O error|Input/output", engine.docker(*write, check=False))
    engine.docker("plugin", "enable", PLUGIN)
    engine.docker("rm", "--force", writer)
    assert engine.docker(*USE, "cat /data/last").strip() == "unflushed"
    managed.tgt.wait_sessions(0, timeout=30)
    assert not managed.left()
