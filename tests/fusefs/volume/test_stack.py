# SPDX-License-Identifier: Apache-2.0
"""The composition over a fake host and a real process: order, rollback at every step, cancellation.

After each test nothing may be left: no mount, no loop device, no process, no file of the volume.
"""

from __future__ import annotations

from typing import Any

import anyio
import anyio.from_thread
import pytest

from fusefs.errors import CallFailed, ProcessUser, WorkerFailed
from pyscsi_init.errors import LunNotFound
from tests.fusefs.volume.bench import Bench
from tests.support.logs import ExpectLogs

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

MOUNT_STEPS = [
    "prepare_directory",
    "make_private_unbindable",
    "open_fuse",
    "make_private_unbindable",  # the worker has mounted it in another namespace, here in none
    "fuse_mount",
    "loop_attach",
    "probe",
    "fsck",
    "mount",
]
FORMAT_STEPS = [
    *MOUNT_STEPS[:7],
    "assert_formattable",
    "write_format_mark",
    "mkfs",
    "remove_format_mark",
    "probe",
    "mount",
]


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
    assert bench.host.steps == ["sync", "umount", "loop_detach", "umount", "umount"]
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
    assert bench.host.steps == [*MOUNT_STEPS[:6], "read_format_mark"]
    assert (await bench.manager.detach("data")).clean
    bench.assert_nothing_left()


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_journal_that_is_not_replayed_is_told(
    bench: Bench, expect_logs: ExpectLogs, read_only: bool
) -> None:
    bench.format()
    bench.host.content(bench.file("data")).log_pending = True
    if read_only:
        expect_logs("volume data: its ext4 was not unmounted in order")
    await bench.manager.mount(bench.spec(read_only=read_only), bench.mountpoint)
    await bench.manager.umount("data")


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
@pytest.mark.parametrize("step", MOUNT_STEPS + FORMAT_STEPS[7:11])
async def test_a_step_that_fails_leaves_nothing(bench: Bench, step: str, after: bool) -> None:
    """Whether the step failed, or had its effect and the answer was lost."""
    spec = bench.spec(format_if_blank=step in FORMAT_STEPS[7:11])
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
