# SPDX-License-Identifier: Apache-2.0
"""Holder, zygote and workers as a program of their own, in a mount namespace of its own as a pod
has one, and the hand-over to the next one under fio with verification."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

import fusefs
from fusefs.errors import InvalidSpec, NotAllowed, WorkerFailed
from fusefs.process import holder_client
from fusefs.process.holder_client import DATA_PLANE_VARIABLE
from fusefs.process.pids import WorkerIdentity
from fusefs.volume import data_plane
from fusefs.volume.status import VolumeStatus
from tests.e2e.conftest import Volumes
from tests.e2e.test_kills_on_tgt import Load
from tests.support import processes
from tests.support.closing import Closing
from tests.support.direct_io import until
from tests.support.logs import ExpectLogs
from tests.support.lonely_target import LonelyTarget
from tests.support.mount_namespace import MountNamespace
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(400)]

MEBI = 1 << 20
IQN = "iqn.2026-11.example:many"
PATIENCE_S = 90.0
DISKS = 3


class DataPlaneProcess(Closing):
    """``pyscsi-init data-plane`` in a mount namespace of its own."""

    def __init__(
        self,
        volumes: Volumes,
        directory: Path,
        code: Path | None = None,
        mounts: MountNamespace | None = None,
    ) -> None:
        """``mounts``: the namespace of somebody else, who begins and ends it."""
        self._volumes = volumes
        self._directory = directory
        self._code = code or Path(str(fusefs.__path__[0])).parent
        self.ready_file = directory / "ready"
        self.output = directory / "output"
        self._own_mounts = mounts is None
        self._mounts = mounts or MountNamespace(run=directory / "slash-run")

    def begin(self) -> None:
        self._directory.mkdir()
        environment = processes.environment(
            PYSCSI_INIT_RUN_DIR=str(self._volumes.run_dir),
            PYSCSI_INIT_STATE_DIR=str(self._volumes.state_dir),
            PYSCSI_INIT_CGROUP="off",
            PYTHONPATH=str(self._code),
        )
        environment.pop(DATA_PLANE_VARIABLE, None)
        if self._own_mounts:
            self._mounts.begin()
        command = self._mounts.command(sys.executable, "-P", "-m", "fusefs.cli", "data-plane", "-v")
        with self.output.open("wb") as stream:
            self.process = subprocess.Popen(
                [*command, "--ready-file", str(self.ready_file)],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.said()
            return self.ready_file.exists()

        until(is_ready, PATIENCE_S)

    def said(self) -> str:
        return self.output.read_text()

    @property
    def namespace(self) -> str:
        return namespace_of(self._mounts.pid)

    def processes(self) -> set[int]:
        """All that run in its namespace."""
        return self._mounts.processes()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
        if self._own_mounts:
            self._mounts.close()


def namespace_of(pid: int | None) -> str:
    return os.readlink(f"/proc/{pid}/ns/mnt")


@pytest.fixture
def front_door(volumes: Volumes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Volumes]:
    """The volumes as a front door has them that starts no process of the data path."""
    monkeypatch.setenv(DATA_PLANE_VARIABLE, "external")
    made = Volumes(volumes.directory / "front")
    made.run_dir.parent.mkdir()
    yield made
    made.end_all()


@pytest.fixture
def plane(front_door: Volumes, tmp_path: Path) -> Iterator[DataPlaneProcess]:
    with DataPlaneProcess(front_door, tmp_path / "plane1") as started:
        started.wait_ready()
        yield started
        front_door.end_all()  # while there is somebody who can


@pytest.fixture
def disks(tgt: TgtServer, tmp_path: Path) -> list[str]:
    tid = tgt.new_target(IQN)
    for lun in range(1, DISKS + 1):
        tgt.add_lun(tid, lun, tmp_path / f"disk{lun}", size_bytes=64 * MEBI)
    return [tgt.url(tid, lun) for lun in range(1, DISKS + 1)]


def test_without_a_data_plane_a_front_door_says_what_is_missing(
    front_door: Volumes, disks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder_client, "EXTERNAL_SECONDS", 0.5)
    with pytest.raises(WorkerFailed, match="see that `pyscsi-init data-plane` runs"):
        front_door.attach(disks[0], name="v")
    monkeypatch.setattr(holder_client, "EXTERNAL_SECONDS", PATIENCE_S)
    began = time.monotonic()
    with pytest.raises(WorkerFailed, match="see that"):
        front_door.attach(disks[0], name="v")
    assert time.monotonic() - began < PATIENCE_S / 2, "it has just waited in vain"
    assert front_door.status() == []


def test_a_volume_of_a_data_plane_in_another_mount_namespace(
    front_door: Volumes, plane: DataPlaneProcess, disks: list[str], tgt: TgtServer
) -> None:
    volume = front_door.mount(disks[0], name="v", format_if_blank=True)
    assert namespace_of(volume.worker_pid) == plane.namespace != namespace_of(os.getpid())
    (Path(volume.mountpoint) / "file").write_text("content")
    worker = volume.worker_pid
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    assert (Path(volume.mountpoint) / "file").read_text() == "content"
    until(lambda: front_door.get("v").state == "mounted", PATIENCE_S)
    assert front_door.umount("v").clean
    tgt.wait_sessions(0)
    # Without a volume it stays, for the next one.
    assert front_door.call(front_door.manager.holder.tender)
    volume = front_door.mount(disks[0], name="v")
    assert (Path(volume.mountpoint) / "file").read_text() == "content"
    assert front_door.umount("v").clean


def test_the_worker_does_not_end_under_a_loop_device_of_another_namespace(
    front_door: Volumes, plane: DataPlaneProcess, disks: list[str]
) -> None:
    volume = front_door.attach(disks[0], name="v")
    assert volume.worker_pid is not None
    os.kill(volume.worker_pid, signal.SIGTERM)
    log = front_door.run_dir / "volumes/v/log"
    until(lambda: "SIGTERM is refused" in log.read_text(), PATIENCE_S)
    assert front_door.get("v").worker_pid == volume.worker_pid
    assert front_door.detach("v").clean


def test_only_the_next_data_plane_brings_newer_code(
    front_door: Volumes, plane: DataPlaneProcess
) -> None:
    with pytest.raises(NotAllowed, match="takes over by itself"):
        front_door.call(front_door.manager.holder.renew_zygote)


def copy_of_the_code(directory: Path) -> Path:
    root = Path(str(fusefs.__path__[0])).parent
    for package in ("fusefs", "pyscsi_init"):
        shutil.copytree(
            root / package, directory / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return directory


def attach_all(front_door: Volumes, disks: list[str]) -> list[VolumeStatus]:
    return [front_door.attach(url, name=f"v{number}") for number, url in enumerate(disks)]


def test_handed_over_under_load_and_nothing_is_left_of_the_old_one(
    front_door: Volumes, plane: DataPlaneProcess, disks: list[str], tmp_path: Path, tgt: TgtServer
) -> None:
    old = attach_all(front_door, disks)
    before = front_door.call(front_door.manager.holder.status)
    loads = [Load(volume.loop) for volume in old]
    try:
        until(lambda: all(load.rounds for load in loads), PATIENCE_S)
        code = copy_of_the_code(tmp_path / "newer")
        with DataPlaneProcess(front_door, tmp_path / "plane2", code) as newer:
            newer.wait_ready()
            for load in loads:
                load.check()
            after = front_door.call(front_door.manager.holder.status)
            assert {before.pid, before.zygote_pid}.isdisjoint({after.pid, after.zygote_pid})
            now = front_door.status()
            assert [volume.state for volume in now] == ["attached"] * DISKS
            for was, volume in zip(old, now, strict=True):
                assert volume.worker_pid != was.worker_pid
                assert namespace_of(volume.worker_pid) == newer.namespace
                assert volume.restarts == 0, volume.last_death
            assert str(code) in processes.environ_of(after.zygote_pid)["PYTHONPATH"]
            until(lambda: "another data plane has taken over" in plane.said(), PATIENCE_S)
            # Of the old one only the process that waits is left, and its end harms nobody.
            assert plane.processes() == {plane.process.pid}
            plane.close()
            rounds = [load.rounds for load in loads]
            until(
                lambda: all(load.rounds > was for load, was in zip(loads, rounds, strict=True)),
                PATIENCE_S,
            )
            for load in loads:
                load.end()
            # What is born and what ends after it is as ever; so does what grows.
            tid, lun = 1, 1
            tgt.grow(tid, lun, 96 * MEBI)
            assert front_door.resize("v0").size_bytes == 96 * MEBI
            for volume in now:
                assert front_door.detach(volume.name).clean
            tgt.wait_sessions(0)
    finally:
        for load in loads:
            load.end()


def test_the_next_data_plane_may_come_when_the_last_one_has_ended(
    front_door: Volumes, disks: list[str], tmp_path: Path
) -> None:
    """As a service of the host that is restarted: the process ends, what it held goes on, and is
    taken over by its successor."""
    mounts = MountNamespace(run=tmp_path / "slash-run")
    with mounts:  # one for both, as on a host
        first = DataPlaneProcess(front_door, tmp_path / "plane1", mounts=mounts)
        with first:
            first.wait_ready()
            volume = front_door.attach(disks[0], name="v0")
            load = Load(volume.loop)
            until(lambda: bool(load.rounds), PATIENCE_S)
        try:
            assert front_door.get("v0").worker_pid == volume.worker_pid
            with DataPlaneProcess(front_door, tmp_path / "plane2", mounts=mounts) as newer:
                newer.wait_ready()
                assert front_door.get("v0").worker_pid != volume.worker_pid
                rounds = load.rounds
                until(lambda: load.rounds > rounds, PATIENCE_S)
                load.end()
                assert front_door.detach("v0").clean
        finally:
            load.end()


def test_a_worker_whose_target_is_away_is_handed_over_too(
    front_door: Volumes, plane: DataPlaneProcess, tmp_path: Path
) -> None:
    """The target is in a network of its own, and that is away too; its name is in another mount
    namespace than those of the data planes."""
    with LonelyTarget("lonely", tmp_path, iqn=IQN) as target:
        network = f"/proc/{os.getpid()}/root{target.namespace.path}"
        volume = front_door.attach(target.url, name="v0", settings={"network_namespace": network})
        load = Load(volume.loop)
        try:
            until(lambda: bool(load.rounds), PATIENCE_S)
            target.go()
            until(lambda: front_door.get("v0").state == "recovering", PATIENCE_S)
            with DataPlaneProcess(front_door, tmp_path / "plane2") as newer:
                newer.wait_ready()
                status = front_door.get("v0")
                assert status.state == "recovering"
                assert namespace_of(status.worker_pid) == newer.namespace
                plane.close()
                target.come_back()
                until(lambda: front_door.get("v0").state == "attached", PATIENCE_S)
                load.end()
                assert front_door.detach("v0").clean
        finally:
            load.end()


def test_what_cannot_be_handed_over_is_refused(
    front_door: Volumes, plane: DataPlaneProcess, disks: list[str]
) -> None:
    with pytest.raises(InvalidSpec, match="would end with this data plane"):
        front_door.attach(disks[0], name="v", fuse_channel="pyfuse3")
    assert front_door.status() == []


def test_the_next_one_is_not_ready_while_a_volume_stays_behind(
    front_door: Volumes,
    plane: DataPlaneProcess,
    disks: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that somebody attached with the other channel, beside the front doors."""
    with monkeypatch.context() as beside:
        beside.delenv(DATA_PLANE_VARIABLE)
        volume = front_door.attach(disks[0], name="v", fuse_channel="pyfuse3")
    moves = front_door.attach(disks[1], name="moves")
    with DataPlaneProcess(front_door, tmp_path / "plane2") as newer:
        until(lambda: "stays with the data plane before this one" in newer.said(), PATIENCE_S)
        assert front_door.get("moves").worker_pid != moves.worker_pid
        assert front_door.get("v").worker_pid == volume.worker_pid
        assert not newer.ready_file.exists()
        assert front_door.detach("v").clean
        newer.wait_ready()
        assert front_door.detach("moves").clean


def test_a_holder_that_gives_no_answer_ends_nothing_of_one_that_waits(
    monkeypatch: pytest.MonkeyPatch, expect_logs: ExpectLogs
) -> None:
    """The volumes that have come over are its own already."""
    monkeypatch.setattr(data_plane, "LOOK_SECONDS", 0.01)
    worker = WorkerIdentity(4711, 1)
    expect_logs("the holder gives no answer, asking again")
    asked, silences = 0, 3

    class Holder:
        async def status(self) -> SimpleNamespace:
            nonlocal asked
            asked += 1
            if asked <= silences:
                raise WorkerFailed("", "the holder gives no answer")
            held = {"v": SimpleNamespace(worker=worker)} if asked <= 2 * silences else {}
            return SimpleNamespace(volumes=held)

    plane = data_plane.DataPlane(SimpleNamespace(holder=Holder()))  # type: ignore[arg-type]
    anyio.run(plane.await_the_rest, [data_plane.Moved("v", None, "it cannot", worker)])
    assert asked == 2 * silences + 1
