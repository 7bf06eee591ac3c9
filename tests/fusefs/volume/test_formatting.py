# SPDX-License-Identifier: Apache-2.0
"""Who may do mkfs again that was cut off: decided over a fake host, and by two nodes on tgt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fusefs.errors import BlankNotFormatted, FormatFailed, UnformattedReadOnly
from fusefs.host import LinuxHost
from fusefs.volume.formatting import Notes, new_mark
from fusefs.volume.manager import VolumeManager
from fusefs.volume.state import VolumeState
from fusefs.volume_errors import FormatUnfinished
from pyscsi_init import Fencing, open_lun
from tests.fusefs.volume.bench import Bench
from tests.fusefs.volume.node import Node, in_thread
from tests.support.logs import ExpectLogs

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

FAILED = FormatFailed(("mkfs",), device="/dev/loop0", fstype="ext4", exit_status=-9, output="")


async def cut_off(bench: Bench, **changes: Any) -> None:
    bench.host.fail_at("mkfs", FAILED)
    with pytest.raises(FormatFailed):
        await bench.manager.mount(bench.spec(format_if_blank=True, **changes), bench.mountpoint)
    bench.assert_nothing_left()
    bench.host.actions.clear()


def notes_of(bench: Bench) -> list[Path]:
    return list((bench.base / "state" / "formatting").iterdir())


async def test_the_node_that_was_cut_off_goes_on(bench: Bench) -> None:
    await cut_off(bench, fstype="xfs")
    assert len(notes_of(bench)) == 1
    bench.host.content(bench.file("data")).first_nonzero = 1 << 20
    await bench.manager.mount(bench.spec(format_if_blank=True, fstype="ext4"), bench.mountpoint)
    steps = bench.host.steps
    at = steps.index("wipe_unfinished")
    assert steps[at : at + 4] == [
        "wipe_unfinished",
        "write_format_mark",
        "mkfs",
        "remove_format_mark",
    ]
    assert "assert_formattable" not in steps
    assert notes_of(bench) == []
    await bench.manager.umount("data")
    bench.assert_nothing_left()


async def test_another_node_does_not(bench: Bench) -> None:
    await cut_off(bench)
    for note in notes_of(bench):
        note.unlink()
    with pytest.raises(FormatUnfinished, match="still go on") as caught:
        await bench.manager.mount(bench.spec(format_if_blank=True), bench.mountpoint)
    assert "mount it there" in str(caught.value)
    assert "wipe_unfinished" not in bench.host.steps
    bench.assert_nothing_left()


async def test_it_is_not_done_without_being_asked_for(bench: Bench) -> None:
    await cut_off(bench)
    with pytest.raises(BlankNotFormatted):
        await bench.manager.mount(bench.spec(), bench.mountpoint)
    with pytest.raises(UnformattedReadOnly):
        await bench.manager.mount(bench.spec(read_only=True), bench.mountpoint)
    assert len(notes_of(bench)) == 1


async def test_a_file_system_that_was_finished_is_taken(bench: Bench) -> None:
    bench.host.fail_at("remove_format_mark", FAILED)
    with pytest.raises(FormatFailed):
        await bench.manager.mount(bench.spec(format_if_blank=True), bench.mountpoint)
    content = bench.host.content(bench.file("data"))
    made = content.uuid
    assert content.mark is not None
    await bench.manager.mount(bench.spec(read_only=True), bench.mountpoint)
    await bench.manager.umount("data")
    assert content.mark is not None  # nothing is written to a volume that is read-only
    await bench.manager.mount(bench.spec(), bench.mountpoint)
    assert (content.mark, content.uuid) == (None, made)
    assert notes_of(bench) == []
    await bench.manager.umount("data")


@pytest.mark.parametrize("raw", [False, True])
async def test_a_note_that_was_left_behind_goes_at_the_next_use(bench: Bench, raw: bool) -> None:
    """Killed between the mark's removal and that of the note."""
    bench.host.fail_at("remove_format_mark", FAILED, after=True)
    with pytest.raises(FormatFailed):
        await bench.manager.mount(bench.spec(format_if_blank=True), bench.mountpoint)
    assert bench.host.content(bench.file("data")).mark is None
    assert len(notes_of(bench)) == 1
    Notes(bench.base / "state" / "formatting").write(new_mark("xfs"), state_of(bench, "other"))
    await bench.manager.mount(bench.spec(read_only=True), bench.mountpoint)
    await bench.manager.umount("data")
    assert len(notes_of(bench)) == 2
    if raw:
        await bench.manager.attach(bench.spec())
        await bench.manager.detach("data")
    else:
        await bench.manager.mount(bench.spec(), bench.mountpoint)
        await bench.manager.umount("data")
    assert len(notes_of(bench)) == 1
    assert '"unit": "other"' in notes_of(bench)[0].read_text()


def state_of(bench: Bench, key: str, **facts: Any) -> VolumeState:
    facts["identity"] = {"key": key, "block_size": 512}
    return VolumeState(spec=bench.spec(), phase="attaching", boot_id="b", facts=facts)


async def test_a_note_is_for_one_unit_and_one_attempt(bench: Bench, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")
    first, second, other = new_mark("ext4"), new_mark("ext4"), new_mark("ext4")
    one, two = state_of(bench, "one"), state_of(bench, "two")
    with pytest.raises(FormatUnfinished):
        notes.check_may_wipe("/dev/loop0", first, one)
    notes.write(first, one)
    notes.write(other, two)
    notes.check_may_wipe("/dev/loop0", first, one)
    for mark, state in ((first, two), (second, one)):
        with pytest.raises(FormatUnfinished):
            notes.check_may_wipe("/dev/loop0", mark, state)
    notes.write(second, one)
    with pytest.raises(FormatUnfinished):
        notes.check_may_wipe("/dev/loop0", first, one)
    notes.check_may_wipe("/dev/loop0", other, two)
    notes.remove(second)
    assert [path.stem for path in (tmp_path / "notes").iterdir()] == [other.uuid]


async def test_who_holds_the_unit_needs_no_note(bench: Bench) -> None:
    notes, mark = Notes(None), new_mark("ext4")
    held = {"held": True, "found": False}
    notes.check_may_wipe("/dev/loop0", mark, state_of(bench, "one", fence=held))
    # One more machine with this initiator name has the same key, and may be in its mkfs.
    for fence in ({"held": False, "found": False}, {"held": True, "found": True}, {"held": True}):
        with pytest.raises(FormatUnfinished):
            notes.check_may_wipe("/dev/loop0", mark, state_of(bench, "one", fence=fence))


async def test_who_is_killed_in_a_wipe_has_noted_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was allowed by the fence, which allows it no more: its key will be found registered."""
    await cut_off(bench)
    for note in notes_of(bench):
        note.unlink()
    bench.host.fail_at("wipe_unfinished", FAILED)
    with monkeypatch.context() as patch:
        patch.setattr(Notes, "check_may_wipe", lambda *_: None)
        with pytest.raises(FormatFailed):
            await bench.manager.mount(bench.spec(format_if_blank=True), bench.mountpoint)
    await bench.manager.mount(bench.spec(format_if_blank=True), bench.mountpoint)
    assert "mkfs" in bench.host.steps
    await bench.manager.umount("data")


async def test_a_volume_that_is_used_as_a_block_device_has_no_mark(bench: Bench) -> None:
    """It may leave most of it, and would be wiped when it is mounted by mistake."""
    await cut_off(bench)
    content = bench.host.content(bench.file("data"))
    await bench.manager.attach(bench.spec(read_only=True))
    await bench.manager.detach("data")
    assert content.mark is not None
    await bench.manager.attach(bench.spec())
    assert content.mark is None
    assert notes_of(bench) == []
    await bench.manager.detach("data")


async def test_the_mark_of_another_node_stays_on_a_block_device(
    bench: Bench, expect_logs: ExpectLogs
) -> None:
    """Its mkfs may still be running, and nothing says that it is not."""
    await cut_off(bench)
    for note in notes_of(bench):
        note.unlink()
    expect_logs("mkfs may still be running", logger="fusefs.volume")
    await bench.manager.attach(bench.spec())
    assert bench.host.content(bench.file("data")).mark is not None
    assert "remove_format_mark" not in bench.host.steps
    await bench.manager.detach("data")


async def test_who_holds_the_unit_may_clear_the_mark(bench: Bench) -> None:
    notes, mark = Notes(None), new_mark("ext4")
    for found in (True, False):
        fence = {"held": True, "found": found}
        assert notes.may_clear(mark, state_of(bench, "one", fence=fence))
    assert not notes.may_clear(mark, state_of(bench, "one", fence={"held": False, "found": True}))
    assert not notes.may_clear(mark, state_of(bench, "one"))


class CutHost(LinuxHost):
    """Its mkfs has written something when it ends."""

    def mkfs(
        self,
        device: str,
        fstype: str,
        *,
        label: str = "",
        uuid: str = "",
        options: Sequence[str] = (),
        timeout_s: float = 60,
    ) -> None:
        super().mkfs(device, fstype, label=label, uuid=uuid, options=options, timeout_s=timeout_s)
        with open(device, "r+b", buffering=0) as file:
            file.write(bytes(64 << 10))
        raise FAILED


@pytest.mark.root
@pytest.mark.tgt
async def test_another_node_takes_it_when_it_holds_the_unit(node: Node) -> None:
    """Two nodes, as they have a state directory and an initiator name each."""

    def manager(name: str, host: LinuxHost) -> VolumeManager:
        return VolumeManager(host, node.base / name / "run", node.base / name / "state")

    first, second = manager("one", CutHost()), manager("two", LinuxHost())
    unfenced = node.spec(format_if_blank=True, fencing="off")
    with pytest.raises(FormatFailed):
        await first.mount(unfenced, node.mountpoint)
    with pytest.raises(FormatUnfinished):
        await second.mount(unfenced, node.mountpoint)
    name = "iqn.2026-01.com.example:cloned"
    fenced = node.spec(format_if_blank=True, fencing="required", initiator_name=name)
    url = node.spec().url
    async with open_lun(url, initiator_name=name, fencing=Fencing(required=True)):
        # A third has the name of the second, and may be in its mkfs.
        with pytest.raises(FormatUnfinished):
            await second.mount(fenced, node.mountpoint)
    async with open_lun(url, initiator_name=name, fencing=Fencing(required=True)) as unit:
        unit.give_back_all()
    await second.mount(fenced, node.mountpoint)
    await in_thread((node.mountpoint / "file").write_text, "of the second")
    await second.umount("data")
    # The first finds a file system, and what it noted says nothing any more.
    await first.mount(unfenced, node.mountpoint)
    assert await in_thread((node.mountpoint / "file").read_text) == "of the second"
    await first.umount("data")
