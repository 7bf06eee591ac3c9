# SPDX-License-Identifier: Apache-2.0
"""Holder, zygote and workers on a file in the place of a LUN: who follows whom, and what is kept.

The same over a real target and under load is in tests/e2e/test_kills_on_tgt.py.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from fusefs.errors import NotAllowed, WorkerFailed
from fusefs.process.launch import signal_and_wait, wait_for_end
from fusefs.process.zygote import WORKER_NAME
from tests.fusefs.process.running import Held, eventually, in_thread, read, unmount, write
from tests.support import processes
from tests.support.requirements import require_module
from tests.support.source import imports, modules

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.root]


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Held]:
    async with Held(tmp_path) as made:
        yield made


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)


def zygotes() -> set[int]:
    """All that this test has started."""
    return {
        pid
        for pid in processes.marked_processes(processes.mark_session())
        if "ram_zygote" in processes.command_line(pid) and processes.name_of(pid) != WORKER_NAME
    }


async def ended(pid: int) -> None:
    assert await in_thread(processes.wait_exit, pid, 20)


# -- a worker is followed -------------------------------------------------------------------------


async def test_a_killed_worker_is_followed_and_the_file_stays_open(held: Held) -> None:
    it = await held.serve()
    descriptor = await in_thread(os.open, it.file, os.O_RDWR)
    try:
        await in_thread(os.pwrite, descriptor, b"first", 0)
        kill(it.identity.pid)
        assert await in_thread(os.pread, descriptor, 5, 0) == b"first"
        await in_thread(os.pwrite, descriptor, b"then", 4096)
        assert await in_thread(os.pread, descriptor, 4, 4096) == b"then"
        other = await held.serves(other_than=it.identity.pid)
        facts = await held.facts()
        assert (facts.restarts, facts.restart_in_s) == (1, None)

        async def told() -> bool:
            return "killed by SIGKILL" in (await held.facts()).last_death

        await eventually(told)
        assert (await it.client.call("status"))["pid"] == other
        assert os.getsid(other) == other
    finally:
        await in_thread(os.close, descriptor)
    assert await it.client.call("stop", force=False, deadline_s=15) == {}
    await ended(other)
    assert (await held.facts()).state == "over"
    assert os.listdir(it.fuse) == []


async def test_requests_that_wait_while_workers_cannot_live_are_answered_at_last(
    held: Held,
) -> None:
    """Held back longer and longer, said why and until when; and nothing is lost by it."""
    it = await held.serve()
    await in_thread(write, it.file, 0, b"kept")
    (it.directory / "broken").touch()
    kill(it.identity.pid)
    async with anyio.create_task_group() as group:
        got: list[bytes] = []

        async def reader() -> None:
            got.append(await in_thread(read, it.file, 0, 4))

        group.start_soon(reader)

        async def held_back() -> bool:
            facts = await held.facts()
            return facts.state == "waiting" and facts.restarts >= 5

        await eventually(held_back)
        facts = await held.facts()
        assert facts.restart_in_s is not None
        assert "exit status 1" in facts.last_death
        assert "a fault of ours" in facts.last_death
        assert got == []
        (it.directory / "broken").unlink()
    assert got == [b"kept"]


async def test_a_worker_that_ended_in_order_is_not_followed(held: Held) -> None:
    it = await held.serve()
    await in_thread(unmount, it.fuse)
    await ended(it.identity.pid)
    assert (await held.facts()).state == "over"


async def test_while_it_is_being_ended_nobody_follows(held: Held) -> None:
    it = await held.serve()
    async with held.client.ending("v"):
        assert await signal_and_wait(it.identity, signal.SIGKILL, 10)

        async def dead() -> bool:
            return (await held.facts()).state == "dead"

        await eventually(dead)
        # Without a reader the kernel has ended the connection.
        with pytest.raises(OSError, match="not connected"):
            await in_thread(os.listdir, it.fuse)
    assert (await held.facts()).state == "dead"


async def test_who_was_going_to_end_it_and_did_not_leaves_it_as_it_was(held: Held) -> None:
    it = await held.serve()
    async with held.client.ending("v"):
        pass
    kill(it.identity.pid)
    assert await held.serves(other_than=it.identity.pid)


async def test_a_libfuse_volume_ends_with_its_worker(held: Held) -> None:
    require_module("pyfuse3")
    it = await held.serve(fuse_channel="pyfuse3")
    with pytest.raises(NotAllowed, match="native"):
        await it.client.call("make-room")
    kill(it.identity.pid)

    async def dead() -> bool:
        facts = await held.facts()
        return facts.state == "dead" and "SIGKILL" in facts.last_death

    await eventually(dead)
    with pytest.raises(OSError, match="not connected"):
        await in_thread(os.listdir, it.fuse)


async def test_a_first_worker_that_fails_is_forgotten(held: Held) -> None:
    worker = await held.start(fuse_directory="missing")
    with pytest.raises(Exception, match="missing"):
        await worker.wait_ready(30)
    assert "v" not in (await held.client.status()).volumes


# -- hung -----------------------------------------------------------------------------------------


async def test_a_worker_whose_loop_does_not_turn_is_killed(tmp_path: Path) -> None:
    async with Held(tmp_path, silence_s=2.0) as held:
        it = await held.serve()
        await anyio.sleep(2.5)  # longer than the limit: beats are heard
        assert (await held.facts()).worker == it.identity
        kill(it.identity.pid, signal.SIGSTOP)
        assert await in_thread(read, it.file, 0, 4) == bytes(4)
        await held.serves(other_than=it.identity.pid)
        assert "did not turn" in (await held.facts()).last_death
        assert not processes.is_alive(it.identity.pid)


async def test_a_holder_that_overslept_judges_nobody(tmp_path: Path) -> None:
    async with Held(tmp_path, silence_s=3.5) as held:
        it = await held.serve()
        holder, _ = await held.pids()
        kill(holder, signal.SIGSTOP)
        kill(it.identity.pid, signal.SIGSTOP)
        await anyio.sleep(4.5)
        kill(holder, signal.SIGCONT)
        await anyio.sleep(1.0)
        kill(it.identity.pid, signal.SIGCONT)
        assert await in_thread(read, it.file, 0, 4) == bytes(4)
        assert (await held.facts()).worker == it.identity


# -- zygotes and holders --------------------------------------------------------------------------


async def test_a_worker_has_only_its_own_descriptors(held: Held) -> None:
    one, other = await held.serve("one"), await held.serve("other")
    kill(one.identity.pid)
    workers = [await held.serves("one", other_than=one.identity.pid), other.identity.pid]
    for pid, own, foreign in zip(workers, (one, other), (other, one), strict=True):
        descriptors = processes.open_descriptors(pid)
        targets = list(descriptors.values())
        assert targets.count("/dev/fuse") == 1
        slots = [fd for fd, target in descriptors.items() if "pyscsi-init-slots" in target]
        assert len({os.stat(f"/proc/{pid}/fd/{fd}").st_ino for fd in slots}) == 1
        assert str(own.log) in targets
        assert str(foreign.log) not in targets
        assert processes.open_descriptors(pid)[0] == "/dev/null"
    _, zygote = await held.pids()
    assert "/dev/fuse" not in processes.open_descriptors(zygote).values()


async def test_a_holder_may_hold_as_many_descriptors_as_this_host_allows(held: Held) -> None:
    await held.serve()
    holder, _ = await held.pids()
    limits = (await anyio.Path(f"/proc/{holder}/limits").read_text()).splitlines()
    soft, hard = next(line for line in limits if line.startswith("Max open files")).split()[3:5]
    assert soft == hard


async def test_the_death_of_the_zygote_harms_nobody(held: Held) -> None:
    it = await held.serve()
    _, zygote = await held.pids()
    kill(zygote)
    assert await in_thread(read, it.file, 0, 4) == bytes(4)
    kill(it.identity.pid)
    await held.serves(other_than=it.identity.pid)
    assert (await held.pids())[1] != zygote
    # Its worker was an orphan, given to the holder, which has seen how it ended.
    assert "SIGKILL" in (await held.facts()).last_death


async def test_a_dead_holder_is_rebuilt_by_the_zygote(held: Held) -> None:
    it = await held.serve()
    await held.serve("other")
    holder, zygote = await held.pids()
    kill(holder)
    await ended(holder)
    # Nobody asks: the zygote has noticed.
    await eventually_another(held, holder)
    kill(it.identity.pid)
    assert await in_thread(read, it.file, 0, 4) == bytes(4)
    await held.serves(other_than=it.identity.pid)
    assert (await held.pids())[1] == zygote
    assert set((await held.client.status()).volumes) == {"v", "other"}


async def eventually_another(held: Held, than: int) -> None:
    async def there() -> bool:
        status = await held.client.status(start=False)
        return bool(status.pid) and status.pid != than and len(status.volumes) > 1

    await eventually(there)


async def test_without_holder_and_zygote_the_next_command_finds_the_workers(held: Held) -> None:
    it = await held.serve()
    holder, zygote = await held.pids()
    kill(zygote)
    kill(holder)
    await ended(holder)
    await ended(zygote)
    assert await in_thread(read, it.file, 0, 4) == bytes(4)
    assert await held.serves() == it.identity.pid
    kill(it.identity.pid)
    assert await in_thread(read, it.file, 0, 4) == bytes(4)
    await held.serves(other_than=it.identity.pid)


async def test_of_two_holders_one_ends(held: Held) -> None:
    await held.serve()
    before = await held.pids()
    await held.client._start()
    assert await held.pids() == before


async def test_a_worker_makes_room(held: Held) -> None:
    it = await held.serve()
    await in_thread(write, it.file, 0, b"kept")
    old_zygote = (await held.pids())[1]
    assert await held.client.renew_zygote() != old_zygote
    await ended(old_zygote)
    async with held.client.successor("v") as successor:
        await it.client.call("make-room")
        facts = await successor(20)
    assert facts["pid"] != it.identity.pid
    assert await in_thread(read, it.file, 0, 4) == b"kept"
    now = await held.facts()
    assert (now.restarts, now.last_death) == (0, "")


@pytest.mark.parametrize("python", ["/bin/false", "/there/is/none"])
async def test_a_zygote_that_does_not_come_up_changes_nothing(held: Held, python: str) -> None:
    it = await held.serve()
    before = await held.pids()
    request = {"request": "zygote", "python": python, "roots": [], "environment": {}}
    with pytest.raises(WorkerFailed):
        await held.client._ask("", request)
    assert await held.pids() == before
    kill(it.identity.pid)
    await held.serves(other_than=it.identity.pid)


async def test_a_holder_hands_everything_over(held: Held) -> None:
    it, other = await held.serve(), await held.serve("other")
    kill(other.identity.pid)
    following = await held.serves("other", other_than=other.identity.pid)
    holder, zygote = await held.pids()
    assert await held.client.renew_holder() != holder
    await ended(holder)
    assert (await held.pids())[1] == zygote

    async def only_that_one() -> bool:
        return await in_thread(zygotes) == {zygote}

    await eventually(only_that_one)
    assert await held.serves() == it.identity.pid
    assert await held.serves("other") == following
    assert (await held.facts("other")).restarts == 1
    kill(it.identity.pid)
    assert await in_thread(read, it.file, 0, 4) == bytes(4)
    await held.serves(other_than=it.identity.pid)


async def test_with_the_last_volume_everything_ends(held: Held) -> None:
    it = await held.serve()
    pids = [it.identity.pid, *await held.pids()]
    async with held.client.ending("v"):
        await it.client.call("stop", force=True)
        assert await wait_for_end(it.identity, 10)
        await held.client.forget("v")
    assert [pid for pid in pids if processes.is_alive(pid)] == []
    assert not (held.run / "holder.sock").exists()


async def test_a_holder_that_nobody_uses_ends(held: Held) -> None:
    (held.run / "volumes" / "empty").mkdir()
    (held.run / "volumes" / "empty" / "state.json").touch()
    holder, _ = (await held.client.status()).pid, None
    assert holder is not None
    await ended(holder)
    (held.run / "volumes" / "empty" / "state.json").unlink()
    (held.run / "volumes" / "empty").rmdir()


async def test_nonsense_and_unknown_requests_are_survived(held: Held) -> None:
    await held.serve()
    for request in ({"request": "nonsense"}, {"request": "start"}, {}):
        with pytest.raises(WorkerFailed):
            await held.client._ask("", request)
    assert (await held.facts()).state == "serving"


# -- what they are --------------------------------------------------------------------------------


def test_the_holder_is_made_of_the_standard_library() -> None:
    """And what it imports of ours, and what that imports, too."""
    waiting, seen = ["fusefs.process.holder"], set()
    while waiting:
        module = waiting.pop()
        if module in seen or module not in modules():
            continue
        seen.add(module)
        for _, imported in imports(modules()[module]):
            top = imported.split(".")[0]
            assert top in sys.stdlib_module_names or imported.startswith("fusefs.process"), (
                f"{module} imports {imported}"
            )
            waiting.append(imported)
    assert len(seen) > 8
