# SPDX-License-Identifier: Apache-2.0
"""Two nodes and one LUN of a real tgt: who lost the volume writes nothing any more.

Each node has its network namespace, its line to the target, its run and state directories. What
landed is read from the target's backing file, block by block.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fusefs.volume.status import VolumeStatus
from pyscsi_init.device import node_key
from pyscsi_init.errors import HeldByAnother
from tests.e2e.conftest import IQN, Volumes
from tests.support.direct_io import BLOCK, Background, read_direct, until, write_direct
from tests.support.tgt import TgtServer
from tests.support.two_hosts import ADDRESS, Host, TwoHosts

pytestmark = [pytest.mark.root, pytest.mark.tgt]

T = TypeVar("T")
MEBI = 1 << 20
PATIENCE = 60.0
START = 8 * MEBI
BLOCKS = 24
ATTENTIVE = {
    "noop_interval": 0.5, "noop_timeout": 0.5, "login_timeout": 1.0, "connect_timeout": 1.0,
    "default_time2wait": 0,
}  # fmt: skip
"""A line that is cut is found within a second ..."""
PATIENT = {"noop_interval": 120.0, "noop_timeout": 120.0, "default_time2wait": 0}
"""... or not at all: then what waits in the socket is sent as soon as the line is back."""


class Node(Volumes):
    """The volumes of one host."""

    def __init__(self, host: Host, directory: Path) -> None:
        directory.mkdir()
        super().__init__(directory)
        self.host = host
        self.key = f"0x{node_key(host.initiator_name):016x}"

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kw: Any) -> T:
        """Run one call as a command on that host."""
        with self.host.namespace.entered():
            return super().call(function, *args, **kw)

    def open(self, tgt: TgtServer, settings: dict[str, float], **spec: Any) -> VolumeStatus:
        """Attach the LUN as this node."""
        name = self.host.initiator_name
        return self.attach(tgt.url(1, 1), name="v", initiator_name=name, settings=settings, **spec)


class Scene:
    """Node a with the volume; node b without it yet."""

    def __init__(self, tgt: TgtServer, disk: Path, a: Node, b: Node) -> None:
        self.tgt, self.disk, self.a, self.b = tgt, disk, a, b

    def block(self, number: int) -> bytes:
        """What the target's backing file holds."""
        with self.disk.open("rb") as file:
            file.seek(START + number * BLOCK)
            return file.read(BLOCK)

    def contents(self) -> list[bytes]:
        """The first byte of each block, which has to be the same all through it."""
        blocks = [self.block(number) for number in range(BLOCKS)]
        assert all(block == block[:1] * BLOCK for block in blocks), "a torn block"
        return [block[:1] for block in blocks]

    def write(self, path: str, byte: bytes) -> None:
        """Write all blocks and wait for each."""
        for number in range(BLOCKS):
            write_direct(path, START + number * BLOCK, byte * BLOCK)

    def queue(self, path: str, byte: bytes) -> list[Background]:
        """Write all blocks at once, in the background."""
        return [
            Background(write_direct, path, START + number * BLOCK, byte * BLOCK)
            for number in range(BLOCKS)
        ]

    def is_fenced(self) -> bool:
        """Whether node a's volume says so."""
        told = self.a.get("v")
        return told.state == "failed" and "taken over by" in told.last_error


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    disk = tmp_path / "disk"
    disk.touch()
    with (
        TwoHosts() as hosts,
        hosts.store.entered(),
        TgtServer(address=ADDRESS, fault_on=disk) as tgt,
    ):
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, disk, size_bytes=64 * MEBI)
        a, b = Node(hosts.a, tmp_path / "a"), Node(hosts.b, tmp_path / "b")
        try:
            yield Scene(tgt, disk, a, b)
        finally:
            hosts.a.mend()
            b.end_all()
            a.end_all()


def all_fail(writes: list[Background]) -> None:
    for write in writes:
        with pytest.raises(OSError, match="Input/output"):
            write.join(PATIENCE)


@pytest.mark.parametrize("settings", [ATTENTIVE, PATIENT], ids=["noticed", "unnoticed"])
def test_nothing_lands_of_a_node_that_was_taken_over(
    scene: Scene, settings: dict[str, float]
) -> None:
    """Cut off with writes queued; in its own queue where it has noticed, in its sockets else."""
    a, b = scene.a, scene.b
    volume = a.open(scene.tgt, settings)
    assert a.get("v").fence == {"key": a.key, "held": True}
    scene.write(volume.loop, b"1")
    a.host.cut()
    late = scene.queue(volume.loop, b"2")
    if settings is ATTENTIVE:
        until(lambda: a.get("v").state == "recovering", PATIENCE)
    else:
        until(lambda: a.get("v").io["in_flight"] == BLOCKS, PATIENCE)
    with pytest.raises(HeldByAnother, match=a.key) as refused:
        b.open(scene.tgt, settings)
    assert refused.value.key == node_key(a.host.initiator_name)
    assert b.status() == []
    other = b.open(scene.tgt, settings, take_over=True)
    assert b.get("v").fence == {"key": b.key, "held": True}
    scene.write(other.loop, b"3")
    assert scene.contents() == [b"3"] * BLOCKS
    assert all(write.running for write in late)
    a.host.mend()
    all_fail(late)
    until(scene.is_fenced, PATIENCE)
    assert b.key in a.get("v").last_error
    for call in (read_direct, write_direct):
        arguments = (
            (volume.loop, START) if call is read_direct else (volume.loop, START, b"4" * BLOCK)
        )
        with pytest.raises(OSError, match="Input/output"):
            call(*arguments)
    assert scene.contents() == [b"3"] * BLOCKS
    # Node b never noticed anything, and has the volume until it gives it back.
    write_direct(other.loop, START, b"3" * BLOCK)
    assert "taken over" in str(a.detach("v"))
    assert a.status() == []
    with pytest.raises(HeldByAnother):
        a.open(scene.tgt, settings)
    assert b.detach("v").clean
    volume = a.open(scene.tgt, settings)
    assert read_direct(volume.loop, START) == b"3" * BLOCK
    write_direct(volume.loop, START, b"5" * BLOCK)
    assert a.detach("v").clean
    assert scene.contents() == [b"5", *[b"3"] * (BLOCKS - 1)]


@pytest.mark.parametrize("use", ["device", "clean", "dirty"])
def test_a_takeover_that_is_noticed_by_the_end_of_the_volume(scene: Scene, use: str) -> None:
    """Nothing was sent since: one detach, or one umount, ends it all the same, and says why."""
    a, b = scene.a, scene.b
    if use == "device":
        a.open(scene.tgt, PATIENT)
    else:
        name = a.host.initiator_name
        volume = a.mount(
            scene.tgt.url(1, 1), name="v", initiator_name=name, settings=PATIENT,
            fstype="ext4", format_if_blank=True,
        )  # fmt: skip
    b.open(scene.tgt, PATIENT, take_over=True)
    assert a.get("v").last_error == ""
    if use == "dirty":
        (Path(volume.mountpoint) / "file").write_bytes(b"2" * MEBI)
    report = a.detach("v") if use == "device" else a.umount("v")
    assert "was taken over by" in str(report)
    assert "detach the volume" not in str(report)  # it is
    assert not report.clean
    assert a.status() == []
    assert b.get("v").fence == {"key": b.key, "held": True}


def test_the_takeover_waits_for_a_write_inside_the_target(scene: Scene) -> None:
    """The target has it already and does it later: not on top of the other node's."""
    a, b, fault = scene.a, scene.b, scene.tgt.fault
    assert fault is not None
    volume = a.open(scene.tgt, ATTENTIVE)
    scene.write(volume.loop, b"1")
    fault.hold(START, START + BLOCK, count=1)
    late = Background(write_direct, volume.loop, START, b"2" * BLOCK)
    fault.wait_held()
    a.host.cut()
    attached: list[VolumeStatus] = []
    taking = Background(lambda: attached.append(b.open(scene.tgt, ATTENTIVE, take_over=True)))
    taking.thread.join(3.0)
    assert taking.running, "attached while a write of the other node could still land"
    fault.release()
    taking.join(PATIENCE)
    assert scene.block(0) == b"2" * BLOCK
    scene.write(attached[0].loop, b"3")
    a.host.mend()
    all_fail([late])
    until(scene.is_fenced, PATIENCE)
    assert scene.contents() == [b"3"] * BLOCKS


def test_a_successor_finds_that_the_volume_was_taken_over(scene: Scene) -> None:
    """The worker dies while its node is cut off: what it left in the slots is not sent."""
    a, b = scene.a, scene.b
    volume = a.open(scene.tgt, ATTENTIVE)
    scene.write(volume.loop, b"1")
    a.host.cut()
    late = scene.queue(volume.loop, b"2")
    until(lambda: a.get("v").state == "recovering", PATIENCE)
    worker = a.get("v").worker_pid
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    until(lambda: a.get("v").worker_pid not in (None, worker), PATIENCE)
    other = b.open(scene.tgt, ATTENTIVE, take_over=True)
    scene.write(other.loop, b"3")
    a.host.mend()
    all_fail(late)
    until(scene.is_fenced, PATIENCE)
    assert scene.contents() == [b"3"] * BLOCKS
    assert "taken over" in str(a.detach("v"))


def test_a_node_that_came_and_left_meanwhile_is_seen(scene: Scene) -> None:
    """No key is there when the line is back, and yet the volume was another node's."""
    a, b = scene.a, scene.b
    volume = a.open(scene.tgt, ATTENTIVE)
    scene.write(volume.loop, b"1")
    a.host.cut()
    late = scene.queue(volume.loop, b"2")
    until(lambda: a.get("v").state == "recovering", PATIENCE)
    other = b.open(scene.tgt, ATTENTIVE, take_over=True)
    scene.write(other.loop, b"3")
    assert b.detach("v").clean
    a.host.mend()
    all_fail(late)
    until(scene.is_fenced, PATIENCE)
    assert "a node that has left" in a.get("v").last_error
    assert scene.contents() == [b"3"] * BLOCKS


def test_a_target_that_was_started_anew_is_reserved_again(scene: Scene) -> None:
    """tgt keeps registrations in memory. Its worker dies and is upgraded, too: the fence stays."""
    a = scene.a
    volume = a.open(scene.tgt, ATTENTIVE)
    scene.write(volume.loop, b"1")
    scene.tgt.kill()
    late = scene.queue(volume.loop, b"2")
    until(lambda: a.get("v").state == "recovering", PATIENCE)
    scene.tgt.start()
    for write in late:
        write.join(PATIENCE)
    assert a.get("v").fence == {"key": a.key, "held": True}
    worker = a.get("v").worker_pid
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    scene.write(volume.loop, b"3")
    until(lambda: a.get("v").state == "attached", PATIENCE)
    a.call(a.manager.upgrade, "v")
    scene.write(volume.loop, b"4")
    with pytest.raises(HeldByAnother):
        scene.b.open(scene.tgt, ATTENTIVE)
    assert a.detach("v").clean
    assert scene.contents() == [b"4"] * BLOCKS
    other = scene.b.open(scene.tgt, ATTENTIVE)
    assert read_direct(other.loop, START) == b"4" * BLOCK


@pytest.mark.parametrize("force", [False, True])
def test_a_dead_node_finds_itself_again_and_keeps_others_out(scene: Scene, force: bool) -> None:
    """All of it is killed, and nobody has given the volume back; a detach of any kind then does."""
    a, b = scene.a, scene.b
    a.open(scene.tgt, ATTENTIVE)
    a.host.cut()
    assert f"the key {a.key} of this node stays registered" in a.detach("v", force=True).stays
    a.host.mend()
    with pytest.raises(HeldByAnother):
        b.open(scene.tgt, ATTENTIVE)
    (a.state_dir / "isids").rename(a.state_dir / "lost")  # so that it is another nexus
    volume = a.open(scene.tgt, ATTENTIVE)
    scene.write(volume.loop, b"1")
    report = a.detach("v", force=force)
    assert (report.problems, report.stays) == ([], "")
    scene.b.open(scene.tgt, ATTENTIVE)


def test_without_fencing_the_old_writes_land(scene: Scene) -> None:
    """The tests above can fail: nothing but the reservation keeps the writes away."""
    a, b = scene.a, scene.b
    volume = a.open(scene.tgt, ATTENTIVE, fencing="off")
    scene.write(volume.loop, b"1")
    a.host.cut()
    late = scene.queue(volume.loop, b"2")
    until(lambda: a.get("v").state == "recovering", PATIENCE)
    other = b.open(scene.tgt, ATTENTIVE, fencing="off")
    assert b.get("v").fence == {}
    scene.write(other.loop, b"3")
    a.host.mend()
    for write in late:
        write.join(PATIENCE)
    until(lambda: scene.contents() == [b"2"] * BLOCKS, PATIENCE)
