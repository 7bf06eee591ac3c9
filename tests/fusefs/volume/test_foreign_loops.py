# SPDX-License-Identifier: Apache-2.0
"""A container that mounts volumes for itself has the same paths; its loop devices are seen from
here, and are not touched."""

from __future__ import annotations

import pytest

from fusefs.errors import CallFailed
from fusefs.volume.state import save_state
from tests.fusefs.volume.bench import Bench

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("first", [False, True])
async def test_a_device_with_our_path_is_not_ours(bench: Bench, first: bool, force: bool) -> None:
    bench.host.strict = False
    bench.format()
    theirs = bench.host.loop_attach(bench.file("data"), block_size=512) if first else None
    status = await bench.manager.mount(bench.spec(), bench.mountpoint)
    theirs = theirs or bench.host.loop_attach(bench.file("data"), block_size=512)
    assert status.loop != theirs.path
    bench.host.mount(theirs.path, str(bench.base / "theirs"), "ext4")
    await bench.manager.umount("data", force=force)
    assert bench.host.loop_list() == [theirs]
    bench.host.umount(str(bench.base / "theirs"))
    bench.host.loop_detach(theirs)
    bench.assert_nothing_left()


async def test_an_attach_that_fails_does_not_take_theirs(bench: Bench) -> None:
    bench.host.strict = False
    theirs = bench.host.loop_attach(bench.file("data"), block_size=512)
    bench.host.fail_at("loop_attach", CallFailed("loop_attach", "it", 5), after=True)
    with pytest.raises(CallFailed):
        await bench.manager.attach(bench.spec())
    assert bench.host.loop_list() == [theirs]
    bench.host.loop_detach(theirs)
    bench.assert_nothing_left()


@pytest.mark.parametrize("mounted_here", [False, True])
async def test_a_device_that_was_not_written_down_is_ours_by_the_mount(
    bench: Bench, mounted_here: bool
) -> None:
    """The command died between the attachment and the writing down."""
    bench.host.strict = False
    await bench.manager.attach(bench.spec())
    state = bench.state("data")
    assert state is not None
    save_state(bench.directory("data") / "state.json", state.with_(phase="attaching", loop={}))
    if not mounted_here:
        bench.host.umount(str(bench.directory("data") / "fuse"))
    before = bench.host.loop_list()
    assert (await bench.manager.restore()).cleared == ["data"]
    assert bench.host.loop_list() == ([] if mounted_here else before)
    for device in bench.host.loop_list():
        bench.host.loop_detach(device)
    bench.assert_nothing_left()
