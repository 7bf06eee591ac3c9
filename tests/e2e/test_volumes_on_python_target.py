# SPDX-License-Identifier: Apache-2.0
"""The faults of a target as a volume shows them: worker process, FUSE file, loop device, mount."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fusefs.errors import VolumeError
from pyscsi_init import Chap, Secret
from pyscsi_init.errors import IscsiError
from pyscsi_init.testing import READS, WRITES, RamDisk, TargetChap
from tests.e2e.conftest import Volumes
from tests.support.direct_io import Background, read_direct, until, write_direct
from tests.support.fio import fio_verify
from tests.support.python_target import MEBI, RecordingDisk, TargetThread, make_target

pytestmark = pytest.mark.root

LBA, OFFSET, BLOCK = 65536, 65536 * 512, 4096
LOGICAL_UNIT_RESET = 5
QUICK = {"default_time2wait": 0}


@pytest.fixture
def served() -> Iterator[TargetThread]:
    """A target with a disk of 64 MiB that remembers its writes."""
    with TargetThread(make_target(RecordingDisk(64 * MEBI))) as target:
        yield target


def test_a_held_write_never_lands_on_a_newer_one(served: TargetThread, volumes: Volumes) -> None:
    volume = volumes.attach(served.url(), name="v", settings=QUICK)
    target = served.target
    held = served.call(lambda: target.faults.hold_writes(lba=LBA, times=1))
    first = Background(write_direct, volume.loop, OFFSET, b"1" * BLOCK)
    served.wait(held)
    served.call(target.drop_connections)
    until(lambda: target.counters.task_management[LOGICAL_UNIT_RESET])
    assert volumes.get("v").state == "recovering"
    assert first.thread.is_alive()
    served.call(held.release)
    first.join()
    write_direct(volume.loop, OFFSET, b"2" * BLOCK)
    disk = target.luns[0].disk
    assert isinstance(disk, RecordingDisk)
    there = [byte for offset, byte in disk.writes if offset == OFFSET]
    assert there == [b"1", b"1", b"2"]
    assert read_direct(volume.loop, OFFSET) == b"2" * BLOCK
    assert volumes.get("v").io["errors"] == 0
    volumes.detach("v")


def test_the_file_grows_with_the_unit(served: TargetThread, volumes: Volumes) -> None:
    volume = volumes.attach(served.url(), name="v", settings=QUICK)
    assert Path(volume.file).stat().st_size == 64 * MEBI
    served.call(served.target.luns[0].grow, 96 * MEBI)
    read_direct(volume.loop, 0)  # the next command is told
    until(lambda: Path(volume.file).stat().st_size == 96 * MEBI)
    assert volumes.get("v").size_bytes == 96 * MEBI
    with open(volume.file, "r+b", buffering=0) as file:
        file.seek(90 * MEBI)
        file.write(b"beyond the old end")
        os.fsync(file.fileno())
    assert served.target.luns[0].disk.read(90 * MEBI, 18) == b"beyond the old end"
    volumes.detach("v")


def test_errors_have_the_errno_of_a_disk(served: TargetThread, volumes: Volumes) -> None:
    volume = volumes.attach(served.url(), name="v", settings=QUICK)
    faults = served.target.faults

    def write(path: str, offset: int) -> None:
        write_direct(path, offset, b"x" * BLOCK)

    def read(path: str, offset: int) -> None:
        read_direct(path, offset)

    for sense, opcodes, use, expected in (
        ((0x3, 0x11, 0x00), READS, read, {errno.ENODATA}),
        ((0x4, 0x44, 0x00), READS, read, {errno.EIO}),
        ((0x7, 0x27, 0x07), WRITES, write, {errno.ENOSPC}),
    ):
        served.call(
            lambda sense=sense, opcodes=opcodes: faults.check_condition(
                *sense, lba=range(LBA, LBA + 8), opcodes=opcodes, times=8
            )
        )
        with pytest.raises(OSError) as caught:  # noqa: PT011 (the number is what counts)
            use(volume.file, OFFSET)
        assert caught.value.errno in expected
        served.call(faults.clear)
    write_direct(volume.loop, OFFSET, b"y" * BLOCK)
    assert read_direct(volume.loop, OFFSET) == b"y" * BLOCK
    assert volumes.get("v").state == "attached"
    assert volumes.get("v").io["errors"] >= 3
    volumes.detach("v")


@pytest.mark.parametrize("digests", [False, True])
def test_fio_verifies_while_connections_die(
    served: TargetThread, volumes: Volumes, digests: bool
) -> None:
    offer = {"header_digest": "CRC32C", "data_digest": "CRC32C"} if digests else {}
    volume = volumes.attach(served.url(), name="v", settings={**QUICK, **offer})
    target = served.target
    load = Background(partial(fio_verify, volume.loop, size=24 * MEBI, bs="16k", loops=3))

    def commands_beyond(count: int) -> bool:
        return target.counters.commands.total() > count

    def logins_beyond(count: int) -> bool:
        return target.counters.logins > count

    for number in range(1, 6):
        until(partial(commands_beyond, target.counters.commands.total() + 100))
        if digests:
            served.call(lambda: setattr(target.faults, "corrupt_data_digests", 1))
        else:
            served.call(target.drop_connections)
        until(partial(logins_beyond, number))
    load.join()
    after = volumes.get("v")
    assert after.io["errors"] == 0
    assert after.recoveries == 5
    volumes.detach("v")


def test_a_mounted_volume_waits_for_its_target(served: TargetThread, volumes: Volumes) -> None:
    """Refused logins, then a target that lets in again; then the target asks for a logout."""
    volume = volumes.mount(
        served.url(), name="v", fstype="ext4", format_if_blank=True, settings=QUICK
    )
    file = Path(volume.mountpoint) / "file"
    target = served.target
    served.call(lambda: setattr(target.faults, "refuse_logins", [(3, 1), (3, 1)]))
    served.call(target.drop_connections)

    def write(text: str) -> None:
        with file.open("a") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())

    write("first\n")
    served.call(lambda: target.sessions[0].async_message(1, parameters=(0, 0, 1)))
    write("second\n")
    until(lambda: volumes.get("v").recoveries == 2)
    assert file.read_text() == "first\nsecond\n"
    assert target.faults.refuse_logins == []
    volumes.umount("v")


def test_another_disk_fails_the_volume_and_is_not_touched(
    served: TargetThread, volumes: Volumes
) -> None:
    volume = volumes.attach(served.url(), name="v", settings=QUICK)
    target = served.target
    stranger = RecordingDisk(64 * MEBI)
    served.call(lambda: target.luns[0].swap(stranger, announce=False))
    served.call(target.drop_connections)
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the number is what counts)
        write_direct(volume.loop, OFFSET, b"x" * BLOCK)
    assert caught.value.errno == errno.EIO
    failed = volumes.get("v")
    assert failed.state == "failed"
    assert "another logical unit" in failed.last_error
    assert stranger.writes == []
    volumes.detach("v", force=True)
    assert volumes.status() == []


def test_discard_reaches_the_unit(volumes: Volumes) -> None:
    disk = RamDisk(64 * MEBI, thin=True)
    with TargetThread(make_target(disk)) as served:
        volume = volumes.attach(served.url(), name="v", settings=QUICK)
        write_direct(volume.loop, OFFSET, b"x" * BLOCK)
        assert any(allocated for *_, allocated in disk.extents(LBA, 8))
        with open(volume.file, "r+b", buffering=0) as file:
            _punch(file.fileno(), OFFSET, BLOCK)
        assert not any(allocated for *_, allocated in disk.extents(LBA, 8))
        assert read_direct(volume.loop, OFFSET) == bytes(BLOCK)
        volumes.detach("v")


def _punch(descriptor: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    kinds = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    libc.fallocate.argtypes = kinds
    assert libc.fallocate(descriptor, 0x03, offset, length) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.parametrize("algorithm", [5, 6, 7, 8])
def test_mutual_chap(volumes: Volumes, algorithm: int) -> None:
    account = TargetChap(
        user="us",
        secret=b"initiator-secret-1",
        mutual_user="them",
        mutual_secret=b"target-secret-234",
        algorithms=(algorithm,),
    )
    with TargetThread(make_target(chap=account)) as served:
        for secret, right in (("wrong-secret-0000", False), ("target-secret-234", True)):
            chap = Chap(
                user="us", secret=Secret("initiator-secret-1"), mutual_secret=Secret(secret)
            )
            if right:
                volume = volumes.attach(served.url(), chap, name="v", settings=QUICK)
                served.call(served.target.drop_connections)
                write_direct(volume.loop, 0, b"x" * BLOCK)
                volumes.detach("v")
            else:
                with pytest.raises((IscsiError, VolumeError), match=r"[Tt]arget"):
                    volumes.attach(served.url(), chap, name="v", settings=QUICK)
                assert not served.target.counters.commands
