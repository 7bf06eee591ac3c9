# SPDX-License-Identifier: Apache-2.0
"""The delayed write: a connection, or the worker with it, dies while the target's backing store
holds a write back.

After recovery the write is repeated, and newer ones follow. The old one, which the target still
has, must not land on top of them: not on tgt, not on LIO, not on the Python target.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Settings
from pyscsi_init.errors import SessionFailed
from tests.e2e.conftest import Volumes
from tests.support import waiting
from tests.support.direct_io import BLOCK, Background, read_direct, until, write_direct
from tests.support.holding import HOLDING, HoldingTarget, holding_python
from tests.support.kernel_log import KernelLog

pytestmark = pytest.mark.root

MEBI = 1 << 20
OFFSET = 8 * MEBI
HOLD_SECONDS = 0.4
"""How long the write is held after the cut: more than a login takes, less than its timeout."""
QUICK = {"default_time2wait": 0, "login_timeout": 2.0}

Made = Callable[[Path], AbstractContextManager[HoldingTarget]]


def cut_connection(target: HoldingTarget, volumes: Volumes) -> None:
    """The worker lives on and logs in again."""
    target.cut()
    until(lambda: volumes.get("v").state == "recovering")


def kill_worker(target: HoldingTarget, volumes: Volumes) -> None:
    """Its successor logs in anew, with nothing but what the slots say."""
    pid = volumes.get("v").worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: volumes.get("v").worker_pid not in (None, pid))


LOSSES = {"cut": cut_connection, "killed": kill_worker}


@pytest.mark.parametrize("kind", list(HOLDING))
@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("rounds", [2, pytest.param(25, marks=pytest.mark.soak)])
def test_the_newest_write_stays(
    volumes: Volumes, tmp_path: Path, kind: str, loss: str, rounds: int
) -> None:
    """Write "1", lose the connection while it is held, and write "2" when "1" is answered."""
    with HOLDING[kind](tmp_path) as target, ExitStack() as stack:
        volume = volumes.attach(target.url, name="v", settings=QUICK)
        log = stack.enter_context(KernelLog())
        for _ in range(rounds):
            target.hold(OFFSET, OFFSET + BLOCK)
            first = Background(write_direct, volume.loop, OFFSET, b"1" * BLOCK)
            target.wait_held()
            LOSSES[loss](target, volumes)
            first.thread.join(HOLD_SECONDS)
            assert first.running, "a write was answered while an older one could still land on it"
            target.release()
            first.join()
            write_direct(volume.loop, OFFSET, b"2" * BLOCK)
            assert target.content(OFFSET, OFFSET + BLOCK) == b"2" * BLOCK
            assert read_direct(volume.loop, OFFSET) == b"2" * BLOCK
            if loss == "killed" and rounds > 2:
                time.sleep(1.0)  # so long a service earns a successor at once
        assert volumes.get("v").state == "attached"
        assert volumes.get("v").io["errors"] == 0
        log.check(volume.loop)
        volumes.detach("v")
        assert target.content(OFFSET, OFFSET + BLOCK) == b"2" * BLOCK


@pytest.mark.parametrize("kind", ["tgt", "python"])
def test_a_write_that_was_given_up_does_not_land_after_the_worker_died(
    volumes: Volumes, tmp_path: Path, kind: str
) -> None:
    """The application has its EIO and no request is left in the slots, but the target still has the
    write: who comes after the worker must know that."""
    with HOLDING[kind](tmp_path) as target:
        volume = volumes.attach(
            target.url, name="v", settings=QUICK, on_disconnect=f"fail-after={HOLD_SECONDS}"
        )
        target.hold(OFFSET, OFFSET + BLOCK)
        first = Background(write_direct, volume.loop, OFFSET, b"1" * BLOCK)
        target.wait_held()
        target.cut()
        until(lambda: not first.running)
        assert isinstance(first.error, OSError), "its time was up while the target held it"
        kill_worker(target, volumes)
        newer = Background(write_until_it_succeeds, volume.loop, OFFSET, b"2" * BLOCK)
        newer.thread.join(2 * HOLD_SECONDS)
        assert newer.running, "a write was answered while an older one could still land on it"
        target.release()
        newer.join()
        assert target.content(OFFSET, OFFSET + BLOCK) == b"2" * BLOCK
        until(lambda: volumes.get("v").state == "attached")
        # The reset was made: what was given up is no reason for another one.
        before = volumes.get("v").restarts
        kill_worker(target, volumes)
        write_until_it_succeeds(volume.loop, OFFSET, b"3" * BLOCK)
        assert volumes.get("v").restarts == before + 1
        volumes.detach("v")
        assert target.content(OFFSET, OFFSET + BLOCK) == b"3" * BLOCK


def write_until_it_succeeds(path: str, offset: int, data: bytes) -> None:
    """A volume that fails after a time may do so a few times before its target is back."""
    for attempt in range(100):
        try:
            write_direct(path, offset, data)
        except OSError:
            assert attempt < 99
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize("loss", list(LOSSES))
def test_a_target_whose_reset_is_no_barrier_is_found_out(
    volumes: Volumes, tmp_path: Path, loss: str
) -> None:
    """The test above can fail: this target answers the reset while it still has the write."""
    with holding_python(tmp_path, reset_waits_for_writes=False) as target:
        volume = volumes.attach(target.url, name="v", settings=QUICK)
        target.hold(OFFSET, OFFSET + BLOCK)
        first = Background(write_direct, volume.loop, OFFSET, b"1" * BLOCK)
        target.wait_held()
        if loss == "cut":
            target.cut()
        else:
            kill_worker(target, volumes)
        first.join()
        write_direct(volume.loop, OFFSET, b"2" * BLOCK)
        target.release()
        assert target.content(OFFSET, OFFSET + BLOCK) == b"1" * BLOCK
        volumes.detach("v")


@pytest.mark.anyio
@pytest.mark.one_loop
@pytest.mark.parametrize("kind", ["tgt", "python"])
async def test_without_the_barrier_the_old_write_lands_on_the_newer_one(
    tmp_path: Path, kind: str
) -> None:
    """The targets do hold the write, and nothing but the barrier keeps it from landing late."""
    settings = Settings(recovery_timeout=None, default_time2wait=0)
    with HOLDING[kind](tmp_path) as target:
        async with pyscsi_init.open_lun(target.url, settings=settings) as lun:
            lun.session.restorers.clear()
            target.hold(OFFSET, OFFSET + BLOCK)
            async with anyio.create_task_group() as writers:
                writers.start_soon(lun.write, OFFSET, b"1" * BLOCK)
                await anyio.to_thread.run_sync(target.wait_held)
                target.cut()
            await lun.write(OFFSET, b"2" * BLOCK)
            await the_old_one_lands(target)


@pytest.mark.anyio
@pytest.mark.one_loop
async def test_on_lio_a_session_of_another_isid_is_no_barrier(tmp_path: Path) -> None:
    """LIO lets nobody log in with the ISID of a session whose write it still has, so there it is
    the stored ISID that protects: a newcomer's write is overtaken."""
    settings = Settings(recovery_timeout=0, default_time2wait=0)
    with HOLDING["lio"](tmp_path) as target:
        async with pyscsi_init.open_lun(target.url, settings=settings) as lun:
            target.hold(OFFSET, OFFSET + BLOCK)

            async def cut() -> None:
                await anyio.to_thread.run_sync(target.wait_held)
                target.cut()

            async with anyio.create_task_group() as writers:
                writers.start_soon(cut)
                with pytest.raises(SessionFailed):
                    await lun.write(OFFSET, b"1" * BLOCK)
            async with pyscsi_init.open_lun(target.url) as other:
                await other.write(OFFSET, b"2" * BLOCK)
                assert lun.session.recovering
                await the_old_one_lands(target)


async def the_old_one_lands(target: HoldingTarget) -> None:
    """What is released replaces what was written after it."""
    assert target.content(OFFSET, OFFSET + BLOCK) == b"2" * BLOCK
    await anyio.to_thread.run_sync(target.release)
    await waiting.until(lambda: target.content(OFFSET, OFFSET + BLOCK) == b"1" * BLOCK)
