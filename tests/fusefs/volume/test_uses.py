# SPDX-License-Identifier: Apache-2.0
"""A file of users that says nothing is not one that says nobody."""

from __future__ import annotations

import json

import pytest

from fusefs.errors import VolumeError
from fusefs.volume.known import KnownVolumes
from fusefs.volume.locks import file_lock
from fusefs.volume.uses import save_users
from tests.fusefs.volume.bench import Bench
from tests.support.logs import ExpectLogs

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.mark.parametrize("damage", ["version", "cut short", "directory"])
async def test_users_that_cannot_be_read_are_neither_lost_nor_overwritten(
    bench: Bench, expect_logs: ExpectLogs, damage: str
) -> None:
    """Somebody may use the volume; the others go on."""
    expect_logs("cannot be read")
    known = KnownVolumes(bench.manager, patience_s=0)
    for name in ("data", "second"):
        await known.define(bench.spec(name), owner="test")
        bench.format(name)
        await known.use(name, "one")
    uses = bench.base / "run" / "uses" / "data.json"
    before = uses.read_text()
    uses.unlink()
    if damage == "directory":
        uses.mkdir()
    else:
        other = before.replace('"version": 1', '"version": 99')
        uses.write_text(other if damage == "version" else before[:20])
    for call in (known.use("data", "two"), known.release("data", "one"), known.remove("data")):
        with pytest.raises(VolumeError, match="who uses volume 'data' cannot be read"):
            await call
    with pytest.raises(VolumeError, match="cannot be read"):
        await known.forget_users("data", set())
    data, second = await known.list()
    assert "cannot be read" in data.problem
    assert (second.problem, second.users) == ("", {"one": 1})
    assert data.mountpoint == str(known.mountpoint("data"))
    report = await KnownVolumes(bench.another_manager(), patience_s=0).restore()
    assert report.kept == ["data", "second"]
    assert ["cannot be read" in problem for problem in report.problems] == [True]
    place = str(bench.base / "state" / "mounts" / "data")
    assert place in [entry.mountpoint for entry in bench.host.mounts()]
    assert uses.exists()
    if damage == "directory":
        uses.rmdir()
    uses.write_text(before)
    for name in ("data", "second"):
        assert (await known.get(name)).users == {"one": 1}
        await known.release(name, "one")
    bench.assert_nothing_left()


async def test_the_count_of_one_who_comes_now_is_not_cleared(bench: Bench) -> None:
    known = KnownVolumes(bench.manager, patience_s=0)
    await known.define(bench.spec("data"), owner="test")
    uses = bench.base / "run" / "uses" / "data.json"
    save_users(uses, "data", {"one": 1})
    uses.write_text(json.dumps(json.loads(uses.read_text()) | {"boot_id": "another"}))
    async with file_lock(bench.manager.directories.uses_lock("data"), "data", 0):
        await known.restore()  # while he who has read it is about to write it
        assert uses.exists()
    await known.restore()
    assert not uses.exists()
