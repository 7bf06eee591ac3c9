# SPDX-License-Identifier: Apache-2.0
"""A successor whose LUN is away, or another one than its predecessor's; and the note about it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from fusefs.errors import WorkerFailed
from fusefs.process.launch import wait_for_end
from fusefs.process.messages import BadMessage
from fusefs.process.takeover import note_of, read_note
from pyscsi_init import Limits, RamDevice
from tests.fusefs.process.running import Held, eventually, in_thread, read, write

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.root]


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Held]:
    async with Held(tmp_path) as made:
        yield made


def kill(pid: int) -> None:
    os.kill(pid, 9)


async def test_a_successor_waits_for_its_target(held: Held) -> None:
    it = await held.serve()
    await in_thread(write, it.file, 0, b"kept")
    (it.directory / "away").touch()
    kill(it.identity.pid)

    async def is_waiting() -> bool:
        try:
            return bool((await it.client.call("status"))["recovering"])
        except WorkerFailed:
            return False

    await eventually(is_waiting)
    async with anyio.create_task_group() as group:
        group.start_soon(in_thread, write, it.file, 4096, b"later")

        async def is_held() -> bool:
            return (await it.client.call("status"))["io"]["in_flight"] == 1

        await eventually(is_held)
        assert (await held.facts()).state == "starting"
        (it.directory / "away").unlink()
    await held.serves(other_than=it.identity.pid)
    assert await in_thread(read, it.file, 0, 4) == b"kept"
    assert await in_thread(read, it.file, 4096, 5) == b"later"


async def test_a_successor_that_is_being_born_is_held_by_the_next_holder(held: Held) -> None:
    """It does not answer yet when its holder dies: the next one knows of it, and waits for it."""
    it = await held.serve()
    holder, _ = await held.pids()
    (it.directory / "away").touch()
    kill(it.identity.pid)

    async def is_forked() -> bool:
        worker = (await held.facts()).worker
        return worker is not None and worker != it.identity

    await eventually(is_forked)
    kill(holder)

    async def answers() -> bool:
        try:
            return bool(await it.client.call("status"))
        except WorkerFailed:
            return False

    await eventually(answers)  # nothing that would start a holder is asked until then

    async def is_held() -> bool:
        return "v" in (await held.client.status(start=False)).volumes

    await eventually(is_held)
    worker = (await held.facts()).worker
    assert worker is not None
    kill(worker.pid)
    (it.directory / "away").unlink()
    await held.serves(other_than=worker.pid)
    assert await in_thread(read, it.file, 0, 4) == bytes(4)


async def test_a_successor_fails_requests_after_a_time_and_serves_again(held: Held) -> None:
    it = await held.serve(on_disconnect="fail-after=0.5")
    (it.directory / "away").touch()
    kill(it.identity.pid)
    with pytest.raises(OSError, match="Input/output error"):
        await in_thread(read, it.file, 0, 4)
    (it.directory / "away").unlink()
    await held.serves(other_than=it.identity.pid)
    assert await in_thread(read, it.file, 0, 4) == bytes(4)


async def test_another_lun_in_its_place_is_never_written_to(held: Held) -> None:
    it = await held.serve()
    descriptor = await in_thread(os.open, it.file, os.O_RDWR)
    try:
        (it.directory / "swapped").touch()
        kill(it.identity.pid)
        for _ in range(2):
            with pytest.raises(OSError, match=r".*") as refused:
                await in_thread(os.pwrite, descriptor, b"never", 0)
            assert refused.value.errno == errno.EIO
        assert "another LUN" in (await it.client.call("status"))["failed"]
        assert not any((it.directory / "disk").read_bytes())
    finally:
        await in_thread(os.close, descriptor)
    await it.client.call("stop", force=True)
    facts = await held.facts()
    assert facts.worker is None or await wait_for_end(facts.worker, 10)


def test_the_note_says_what_the_device_was() -> None:
    device = RamDevice(1 << 20, 4096, limits=Limits(max_transfer_bytes=1 << 16))
    known = read_note(note_of(device), unknown_outcome=True)
    assert known.properties["size_bytes"] == 1 << 20
    assert known.properties["block_size"] == 4096
    assert known.limits == device.limits
    assert (known.unit, known.unknown_outcome) == (None, True)


@pytest.mark.parametrize("damage", [{"version": 99}, {"properties": {}}, {"limits": {"x": 1}}])
def test_a_note_that_cannot_be_read_is_not_guessed(damage: dict[str, object]) -> None:
    values = {**json.loads(note_of(RamDevice(1 << 20))), **damage}
    for note in (json.dumps(values).encode(), b"", b"{"):
        with pytest.raises(BadMessage):
            read_note(note, unknown_outcome=False)
