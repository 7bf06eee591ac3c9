# SPDX-License-Identifier: Apache-2.0
"""The composition over a fake host and a real process: order, rollback at every step, cancellation.

After each test nothing may be left: no mount, no loop device, no process, no file of the volume.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest

from fusefs.errors import (
    AlreadyAttached,
    BlankNotFormatted,
    CallFailed,
    ContentError,
    FilesystemMismatch,
    InvalidSpec,
    NameInUse,
    NoSuchVolume,
    NotBlank,
    OperationInProgress,
    ProcessUser,
    UnformattedReadOnly,
    WorkerFailed,
)
from fusefs.host import FakeHost, Signature
from fusefs.process.launch import StartedWorker, is_alive, start_worker
from fusefs.process.messages import StartDocument
from fusefs.spec import VolumeSpec
from fusefs.volume.manager import VolumeManager
from fusefs.volume.state import VolumeState, load_state
from pyscsi_init.errors import LunNotFound

pytestmark = pytest.mark.anyio

URL = "iscsi://127.0.0.1/iqn.2026-01.com.example:{}/1"


class Bench:
    """A manager over a fake host, its directories, and every worker that it started."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.host = FakeHost()
        self.workers: list[StartedWorker] = []
        self.mountpoint = base / "mnt"
        self.mountpoint.mkdir()
        self.manager = self.another_manager()

    def another_manager(self) -> VolumeManager:
        return VolumeManager(
            self.host,
            self.base / "run",
            self.base / "state",
            lock_timeout_s=0,
            launch=self.launch,
        )

    def launch(self, document: StartDocument, log: Path) -> StartedWorker:
        module = "tests.fusefs.volume.stand_in_worker"
        worker = start_worker(document, log, arguments=(module,))
        self.workers.append(worker)
        return worker

    def directory(self, name: str) -> Path:
        return self.base / "run" / "volumes" / name

    def file(self, name: str) -> str:
        return str(self.directory(name) / "fuse" / "lun")

    def state(self, name: str) -> VolumeState | None:
        return load_state(self.directory(name) / "state.json")

    def spec(self, name: str = "data", **changes: Any) -> VolumeSpec:
        changes.setdefault("url", URL.format(name))
        return VolumeSpec(name=name, **changes)

    def format(self, name: str = "data", fstype: str = "ext4") -> None:
        self.host.content(self.file(name)).fstype = fstype

    def assert_nothing_left(self) -> None:
        assert self.host.left_behind == []
        assert [worker for worker in self.workers if is_alive(worker.identity)] == []
        volumes = self.base / "run" / "volumes"
        assert not volumes.exists() or os.listdir(volumes) == []

    def kill_workers(self) -> None:
        for worker in self.workers:
            if is_alive(worker.identity):
                os.kill(worker.identity.pid, 9)
                os.waitpid(worker.identity.pid, 0)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.kill_workers()


MOUNT_STEPS = [
    "prepare_directory",
    "make_private_unbindable",
    "loop_attach",
    "probe",
    "fsck",
    "mount",
]
FORMAT_STEPS = [*MOUNT_STEPS[:4], "assert_formattable", "mkfs", "mount"]


# -- the sentence -------------------------------------------------------------------------------


async def test_mount_does_the_steps_in_order_and_umount_in_reverse(bench: Bench) -> None:
    bench.format()
    heard: list[str] = []
    status = await bench.manager.mount(bench.spec(), bench.mountpoint, None, heard.append)
    assert bench.host.steps == MOUNT_STEPS
    assert (status.state, status.loop, status.fstype) == ("mounted", "/dev/loop0", "ext4")
    assert status.mountpoint == str(bench.mountpoint)
    assert status.worker_pid == bench.workers[0].identity.pid
    assert heard[0] == "log in"
    assert heard[-1].startswith("mount on")

    bench.host.actions.clear()
    report = await bench.manager.umount("data")
    assert report.clean
    assert bench.host.steps == ["sync", "umount", "loop_detach", "umount"]
    assert bench.host.actions[1].arguments["path"] == str(bench.mountpoint)
    bench.assert_nothing_left()


async def test_a_blank_lun_is_formatted_when_asked(bench: Bench) -> None:
    spec = bench.spec(format_if_blank=True, fstype="xfs")
    status = await bench.manager.mount(spec, bench.mountpoint)
    assert bench.host.steps == FORMAT_STEPS
    assert status.fstype == "xfs"
    await bench.manager.umount(bench.mountpoint)
    bench.assert_nothing_left()


async def test_attach_stops_at_the_loop_device(bench: Bench) -> None:
    status = await bench.manager.attach(bench.spec())
    assert (status.state, status.mountpoint) == ("attached", "")
    assert bench.host.steps == MOUNT_STEPS[:3]
    assert (await bench.manager.detach("data")).clean
    bench.assert_nothing_left()


async def test_read_only_goes_all_the_way_down(bench: Bench) -> None:
    bench.format()
    await bench.manager.mount(bench.spec(read_only=True), bench.mountpoint)
    assert "fsck" not in bench.host.steps
    arguments = {action.name: action.arguments for action in bench.host.actions}
    assert arguments["loop_attach"]["read_only"] is True
    assert arguments["mount"]["read_only"] is True
    where = bench.base / "bound"
    where.mkdir()
    await bench.manager.publish("data", where)
    assert bench.host.actions[-1].arguments["read_only"] is True
    await bench.manager.unpublish("data", where)
    await bench.manager.umount("data")
    bench.assert_nothing_left()


# -- rollback -----------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", MOUNT_STEPS + FORMAT_STEPS[4:6])
async def test_a_step_that_fails_leaves_nothing(bench: Bench, step: str, after: bool) -> None:
    """Whether the step failed, or had its effect and the answer was lost."""
    spec = bench.spec(format_if_blank=step in FORMAT_STEPS[4:6])
    if not spec.format_if_blank:
        bench.format()
    bench.host.fail_at(step, CallFailed(step, "x", 5), after=after)
    with pytest.raises(CallFailed, match=step):
        await bench.manager.mount(spec, bench.mountpoint)
    assert step in bench.host.steps
    bench.assert_nothing_left()
    # And the same command works afterwards: no lock, no name, no file is in its way.
    await bench.manager.mount(spec, bench.mountpoint)
    await bench.manager.umount("data")
    bench.assert_nothing_left()


@pytest.mark.parametrize("step", MOUNT_STEPS)
async def test_a_cancellation_in_a_step_leaves_nothing(bench: Bench, step: str) -> None:
    bench.format()
    scope = anyio.CancelScope()
    real = getattr(bench.host, step)

    def cancelled_in_the_middle(*arguments: Any, **more: Any) -> Any:
        anyio.from_thread.run_sync(scope.cancel)
        return real(*arguments, **more)

    setattr(bench.host, step, cancelled_in_the_middle)
    with scope:
        await bench.manager.mount(bench.spec(), bench.mountpoint)
    assert scope.cancelled_caught
    bench.assert_nothing_left()
    assert await bench.manager.status() == []


async def test_a_cancellation_during_the_login_leaves_nothing(bench: Bench) -> None:
    scope = anyio.CancelScope()

    def heard(_step: str) -> None:
        scope.cancel()

    with scope:
        await bench.manager.mount(bench.spec("hang"), bench.mountpoint, None, heard)
    assert scope.cancelled_caught
    bench.assert_nothing_left()


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("refuse", LunNotFound, "no LUN 9"),
        ("die", WorkerFailed, "ended before it was ready: out of luck"),
    ],
)
async def test_a_worker_that_fails_leaves_nothing(
    bench: Bench, name: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await bench.manager.attach(bench.spec(name))
    bench.assert_nothing_left()


async def test_an_undo_that_is_busy_is_done_lazily(bench: Bench, expect_logs: Any) -> None:
    """Somebody stepped into the mount while the attach was failing behind it."""
    bench.format()
    bench.host.users["/dev/loop0"] = [ProcessUser(1, "udev", "open file")]
    bench.host.fail_at("probe", CallFailed("read", "x", 5))
    with pytest.raises(CallFailed):
        await bench.manager.mount(bench.spec(), bench.mountpoint)
    detaches = [a.arguments["lazy"] for a in bench.host.actions if a.name == "loop_detach"]
    assert detaches == [False, True]
    bench.assert_nothing_left()


# -- what is refused ----------------------------------------------------------------------------


async def test_what_lies_on_the_lun_decides(bench: Bench) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], type[ContentError]]] = [
        ({}, {}, BlankNotFormatted),
        ({}, {"read_only": True}, UnformattedReadOnly),
        ({"fstype": "xfs"}, {"fstype": "ext4"}, FilesystemMismatch),
        ({"fstype": "xfs"}, {"fstype": "ext4", "format_if_blank": True}, FilesystemMismatch),
        ({"first_nonzero": 4096}, {"format_if_blank": True}, NotBlank),
        (
            {"signatures": (Signature("LVM2_member", "raid", 536),)},
            {"format_if_blank": True},
            FilesystemMismatch,
        ),
    ]
    for content, changes, error in cases:
        on_lun = bench.host.content(bench.file("data"))
        on_lun.fstype, on_lun.signatures, on_lun.first_nonzero = "", (), None
        for field, value in content.items():
            setattr(on_lun, field, value)
        with pytest.raises(error):
            await bench.manager.mount(bench.spec(**changes), bench.mountpoint)
        assert "mkfs" not in bench.host.steps
        assert "mount" not in bench.host.steps
        bench.assert_nothing_left()


async def test_a_directory_that_cannot_be_mounted_on_is_refused_before_the_login(
    bench: Bench,
) -> None:
    bench.format()
    full = bench.base / "full"
    full.mkdir()
    (full / "file").touch()
    for directory, says in [
        (bench.base / "missing", "does not exist"),
        (full, "not empty"),
        (full / "file", "not a directory"),
    ]:
        with pytest.raises(InvalidSpec, match=says):
            await bench.manager.mount(bench.spec(), directory)
    await bench.manager.mount(bench.spec(), bench.mountpoint)
    bench.format("second")
    with pytest.raises(InvalidSpec, match="/dev/loop0 mounted on it"):
        await bench.manager.mount(bench.spec("second"), bench.mountpoint)
    assert len(bench.workers) == 1
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_a_name_in_use_is_refused(bench: Bench) -> None:
    await bench.manager.attach(bench.spec())
    with pytest.raises(NameInUse, match="fstype ''"):
        await bench.manager.attach(bench.spec(fstype="xfs"))
    with pytest.raises(AlreadyAttached):
        await bench.manager.attach(bench.spec())
    await bench.manager.detach("data")
    bench.assert_nothing_left()


async def test_one_lun_is_not_had_twice_whatever_it_is_called(bench: Bench) -> None:
    await bench.manager.attach(bench.spec("a-unit-1"))
    same_url = bench.spec("a-unit-1").url
    with pytest.raises(AlreadyAttached) as by_address:
        await bench.manager.attach(bench.spec("b-unit-1", url=same_url))
    assert by_address.value.other == "a-unit-1"
    assert len(bench.workers) == 1
    with pytest.raises(AlreadyAttached) as by_identity:
        await bench.manager.attach(bench.spec("c-unit-1"))
    assert by_identity.value.other == "a-unit-1"
    assert len(bench.workers) == 2
    await bench.manager.attach(bench.spec("d-unit-2"))
    await bench.manager.detach("a-unit-1")
    await bench.manager.detach("d-unit-2")
    bench.assert_nothing_left()


async def test_one_lun_may_be_had_twice_read_only(bench: Bench) -> None:
    for name in ("a-unit-1", "b-unit-1"):
        await bench.manager.attach(bench.spec(name, read_only=True))
    with pytest.raises(AlreadyAttached):
        await bench.manager.attach(bench.spec("c-unit-1"))
    for name in ("a-unit-1", "b-unit-1"):
        await bench.manager.detach(name)
    bench.assert_nothing_left()


async def test_of_two_at_once_one_wins(bench: Bench) -> None:
    outcomes: list[str] = []

    async def attach(name: str) -> None:
        try:
            await bench.manager.attach(bench.spec(name))
        except AlreadyAttached:
            outcomes.append("refused")
        else:
            outcomes.append(name)

    async with anyio.create_task_group() as group:
        for name in ("a-unit-1", "b-unit-1", "c-unit-1"):
            group.start_soon(attach, name)
    assert outcomes.count("refused") == 2
    (winner,) = [name for name in outcomes if name != "refused"]
    assert [status.name for status in await bench.manager.status()] == [winner]
    await bench.manager.detach(winner)
    bench.assert_nothing_left()


async def test_a_volume_that_is_worked_on_is_left_alone(bench: Bench) -> None:
    async def watch(step: str) -> None:
        other = bench.another_manager()
        with pytest.raises(OperationInProgress):
            await other.attach(bench.spec("hang"))
        with pytest.raises(OperationInProgress):
            await other.umount("hang", force=True)
        (status,) = await other.status()
        assert status.state == "logging-in"
        scope.cancel()

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:

        def heard(step: str) -> None:
            group.start_soon(watch, step)

        with scope:
            await bench.manager.attach(bench.spec("hang"), None, heard)
    bench.assert_nothing_left()


# -- binds --------------------------------------------------------------------------------------


async def test_publish_and_unpublish(bench: Bench) -> None:
    bench.format()
    await bench.manager.mount(bench.spec(), bench.mountpoint)
    one, two = bench.base / "one", bench.base / "two"
    one.mkdir()
    two.mkdir()
    await bench.manager.publish("data", one)
    await bench.manager.publish("data", two, read_only=True)
    again = await bench.manager.publish("data", two, read_only=True)
    assert [bind.directory for bind in again.binds] == [str(one), str(two)]
    assert bench.host.steps.count("bind") == 2
    with pytest.raises(InvalidSpec, match="read_only"):
        await bench.manager.publish("data", two)
    await bench.manager.unpublish("data", one)
    await bench.manager.unpublish("data", one)
    with pytest.raises(InvalidSpec, match="umount it"):
        await bench.manager.unpublish("data", bench.mountpoint)
    bench.host.fail_at("bind", CallFailed("mount", "x", 1), after=True)
    with pytest.raises(CallFailed):
        await bench.manager.publish("data", one)
    (status,) = await bench.manager.status()
    assert (status.state, [b.directory for b in status.binds]) == ("mounted", [str(two)])
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_publish_needs_a_mounted_volume(bench: Bench) -> None:
    with pytest.raises(NoSuchVolume):
        await bench.manager.publish("data", bench.mountpoint)
    await bench.manager.attach(bench.spec())
    with pytest.raises(InvalidSpec, match="not mounted"):
        await bench.manager.publish("data", bench.mountpoint)
    await bench.manager.detach("data")
    bench.assert_nothing_left()
