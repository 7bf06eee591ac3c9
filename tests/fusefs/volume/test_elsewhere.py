# SPDX-License-Identifier: Apache-2.0
"""Two run directories over one state directory: no unit is had twice, no session is reinstated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusefs.errors import AlreadyAttached, OperationInProgress, VolumeError
from fusefs.host import LinuxHost
from fusefs.volume.locks import file_lock
from fusefs.volume.manager import VolumeManager
from fusefs.volume_errors import AttachedElsewhere
from tests.fusefs.volume.bench import Bench
from tests.fusefs.volume.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.fixture
def other(bench: Bench) -> Iterator[Bench]:
    made = Bench(bench.base, "other", bench.host)
    yield made
    made.clean_up()


def records(bench: Bench) -> list[Path]:
    return sorted((bench.base / "state" / "attached").glob("*.json"))


async def test_one_lun_is_not_had_twice_under_two_run_directories(
    bench: Bench, other: Bench
) -> None:
    await bench.manager.attach(bench.spec("a-unit-1"))
    (record,) = records(bench)
    assert json.loads(record.read_text())["state"]["loop"]["number"] == 0
    with pytest.raises(AttachedElsewhere) as by_address:
        await other.manager.attach(other.spec("b", url=bench.spec("a-unit-1").url))
    assert other.workers == []
    with pytest.raises(AttachedElsewhere) as by_identity:
        await other.manager.attach(other.spec("c-unit-1"))
    assert len(other.workers) == 1
    for refused in (by_address.value, by_identity.value):
        assert (refused.other, refused.run) == ("a-unit-1", str(bench.run))
        assert "/dev/loop0" in str(refused)
    await other.manager.attach(other.spec("d-unit-2"))
    assert len(records(bench)) == 2
    await bench.manager.detach("a-unit-1")
    await other.manager.attach(other.spec("c-unit-1"))
    for name in ("c-unit-1", "d-unit-2"):
        await other.manager.detach(name, force=name == "c-unit-1")
    assert records(bench) == []
    bench.assert_nothing_left()
    other.assert_nothing_left()


async def test_one_name_is_not_logged_in_twice(bench: Bench, other: Bench) -> None:
    """It has one ISID: the second login would take the session from the first."""
    await bench.manager.attach(bench.spec("data", read_only=True))
    spec = other.spec("data", url=bench.spec("another").url, read_only=True)
    with pytest.raises(AttachedElsewhere, match="would end its session"):
        await other.manager.attach(spec)
    assert other.workers == []
    await bench.manager.detach("data")
    lock = bench.manager.directories.login_lock("data")
    async with file_lock(lock, "data", 0):
        with pytest.raises(OperationInProgress):
            await other.manager.attach(spec)
    await other.manager.attach(spec)
    await other.manager.detach("data")


async def test_one_lun_may_be_had_under_both_read_only(bench: Bench, other: Bench) -> None:
    await bench.manager.attach(bench.spec("a-unit-1", read_only=True))
    await other.manager.attach(other.spec("b-unit-1", read_only=True))
    await bench.manager.detach("a-unit-1")
    await other.manager.detach("b-unit-1")


async def test_only_what_lives_is_in_the_way(bench: Bench, other: Bench) -> None:
    await bench.manager.attach(bench.spec("a-unit-1"))
    (record,) = records(bench)
    lived = record.read_text()
    await bench.manager.detach("a-unit-1")

    def left(**changes: object) -> None:
        values = json.loads(lived)
        values["state"] |= changes.pop("state", {})  # type: ignore[operator]
        record.write_text(json.dumps(values | changes))

    async def is_in_the_way() -> bool:
        try:
            await other.manager.attach(other.spec("b-unit-1"))
        except AlreadyAttached:
            return True
        await other.manager.detach("b-unit-1")
        return False

    left()
    assert not await is_in_the_way()
    assert not record.exists()
    # Its command died between the attachment and the writing down; the worker is dead too.
    left(state={"loop": {}})
    bench.host.strict = False
    device = bench.host.loop_attach(bench.file("a-unit-1"), block_size=512)
    assert await is_in_the_way()
    left(state={"loop": {}, "boot_id": "another"})
    assert not await is_in_the_way()
    bench.host.loop_detach(device)
    # Nothing can be seen of a worker in another PID namespace: it counts for a moment.
    left(state={"loop": {}}, pid_namespace=1)
    assert await is_in_the_way()
    left(pid_namespace=1)
    assert not await is_in_the_way()


async def test_a_volume_of_older_code_is_recorded_at_a_start(bench: Bench) -> None:
    await bench.manager.attach(bench.spec("a"))
    (record,) = records(bench)
    record.unlink()
    assert (await bench.manager.restore()).kept == ["a"]
    assert json.loads(record.read_text())["state"]["loop"]["number"] == 0
    await bench.manager.detach("a")


async def test_a_record_that_cannot_be_read_forbids(bench: Bench, other: Bench) -> None:
    await bench.manager.attach(bench.spec("a"))
    (record,) = records(bench)
    before = record.read_text()
    for text in ("{", before.replace('"version": 1', '"version": 99'), "[]"):
        record.write_text(text)
        with pytest.raises(VolumeError, match="remove that file"):
            await other.manager.attach(other.spec("b"))
    assert other.workers == []
    await bench.manager.detach("a")


@pytest.mark.root
@pytest.mark.tgt
async def test_two_managers_on_tgt(node: Node) -> None:
    """The worker is killed, and followed: the device says that the volume lives."""
    other = VolumeManager(LinuxHost(), node.base / "other", node.base / "state", lock_timeout_s=0)
    await node.manager.mount(node.spec(format_if_blank=True), node.mountpoint)
    (session,) = node.tgt.sessions()
    place = node.base / "place"
    place.mkdir()
    for spec in (node.spec(), node.spec("by-another-name")):
        with pytest.raises(AttachedElsewhere):
            await other.mount(spec, place)
    assert node.tgt.sessions() == [session]
    (node.mountpoint / "file").write_text("here")
    await node.manager.umount("data")
    node.tgt.wait_sessions(0)
    await other.mount(node.spec(), place)
    assert (place / "file").read_text() == "here"
    await other.umount("data")
    node.assert_nothing_left()
