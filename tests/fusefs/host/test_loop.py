# SPDX-License-Identifier: Apache-2.0
"""Loop devices on this kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fusefs.errors import CallFailed, DeviceBusy, LoopFailed
from fusefs.host import LinuxHost, LoopDevice
from fusefs.host import loop as loop_module
from tests.fusefs.host.conftest import MIB, MakeDevice, MakeImage
from tests.support.source import ROOT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root


@pytest.mark.parametrize("block_size", [512, 4096])
def test_attached_with_the_properties_asked_for(
    make_device: MakeDevice, block_size: int, host: LinuxHost
) -> None:
    device = make_device(8, block_size=block_size)
    assert device.block_size == block_size
    assert device.direct_io
    assert not device.read_only
    assert device.size_bytes == 8 * MIB
    assert device in host.loop_list()


def test_read_only_is_read_only(make_device: MakeDevice) -> None:
    device = make_device(8, read_only=True)
    assert device.read_only
    with pytest.raises(PermissionError):
        _write(device.path)


def _write(path: str) -> None:
    # Older kernels refuse the open, newer ones the write.
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, bytes(512), 0)
    finally:
        os.close(fd)


def test_bytes_written_arrive_in_the_file(make_device: MakeDevice) -> None:
    device = make_device(8)
    fd = os.open(device.path, os.O_RDWR)
    try:
        os.pwrite(fd, b"payload!" * 64, MIB)
        os.fsync(fd)
    finally:
        os.close(fd)
    assert Path(device.backing_file).read_bytes()[MIB : MIB + 8] == b"payload!"


def test_detached_is_gone_and_again_is_no_error(host: LinuxHost, make_image: MakeImage) -> None:
    device = host.loop_attach(make_image(8), block_size=512)
    host.loop_detach(device)
    assert not any(device.same_attachment(one) for one in host.loop_list())
    host.loop_detach(device)


def test_a_device_that_is_held_goes_when_it_is_detached(
    host: LinuxHost, make_image: MakeImage
) -> None:
    device = host.loop_attach(make_image(8), block_size=512, held=True)
    fd = os.open(device.path, os.O_RDONLY)  # somebody comes and goes
    os.close(fd)
    assert device in host.loop_list()
    host.loop_detach(device)
    assert device not in host.loop_list()


HOLD = """
import sys
from fusefs.host import LinuxHost
print(LinuxHost().loop_attach(sys.argv[1], block_size=512, held=True).diskseq, flush=True)
sys.stdin.read()
"""


def test_a_device_that_is_held_goes_with_its_process(
    host: LinuxHost, make_image: MakeImage
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, make_image(8)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        diskseq = int(process.stdout.readline())
        assert any(each.diskseq == diskseq for each in host.loop_list())
        process.kill()
    wait_until(
        lambda: not any(each.diskseq == diskseq for each in host.loop_list()), 30, "it is gone"
    )


def test_another_attachment_under_the_same_number_is_left_alone(
    host: LinuxHost, make_device: MakeDevice
) -> None:
    device = make_device(8)
    assert device.diskseq is not None
    older = LoopDevice(device.path, device.number, "/gone", 512, 0, False, True, device.diskseq - 1)
    host.loop_detach(older)
    assert device in host.loop_list()
    with pytest.raises(LoopFailed, match="not attached any more"):
        host.loop_set_capacity(older)


def test_an_open_device_is_busy_and_its_user_is_named(
    host: LinuxHost, make_device: MakeDevice
) -> None:
    device = make_device(8)
    fd = os.open(device.path, os.O_RDONLY)
    try:
        with pytest.raises(DeviceBusy) as caught:
            host.loop_detach(device, timeout_s=0.1)
    finally:
        os.close(fd)
    assert os.getpid() in caught.value.pids
    assert device in host.loop_list()
    host.loop_detach(device)


def test_a_mounted_device_is_refused_before_anything_is_done(
    host: LinuxHost, make_device: MakeDevice, directory: str
) -> None:
    device = make_device(16, "mkfs.ext4", "-q")
    host.mount(device.path, directory, "ext4")
    with pytest.raises(DeviceBusy) as caught:
        host.loop_detach(device)
    assert caught.value.mounts[0] == directory  # and perhaps again in namespaces it propagates to
    assert host.umount(directory)
    assert device in host.loop_list()  # no autoclear was set


def test_lazily_it_goes_with_its_last_user(
    host: LinuxHost, make_device: MakeDevice, directory: str
) -> None:
    device = make_device(16, "mkfs.ext4", "-q")
    host.mount(device.path, directory, "ext4")
    host.loop_detach(device, lazy=True)
    assert Path(directory, "lost+found").is_dir()
    host.umount(directory)
    host.loop_detach(device)
    assert not any(device.same_attachment(one) for one in host.loop_list())


def test_it_grows_with_its_file(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(8)
    os.truncate(device.backing_file, 24 * MIB)
    grown = host.loop_set_capacity(device)
    assert grown.size_bytes == 24 * MIB
    assert grown.same_attachment(device)


def test_each_over_a_file_follows_it_up_and_not_down(
    host: LinuxHost, make_device: MakeDevice, make_image: MakeImage
) -> None:
    first, stranger = make_device(8), make_device(8)
    second = host.loop_attach(first.backing_file, block_size=512)

    def sizes() -> list[int]:
        mine = (first, second, stranger)
        found = {one.number: one.size_bytes // MIB for one in host.loop_list()}
        return [found[one.number] for one in mine]

    try:
        for file in (first.backing_file, stranger.backing_file):
            os.truncate(file, 24 * MIB)
        host.loop_follow(first.backing_file)
        assert sizes() == [24, 24, 8]
        os.truncate(first.backing_file, 16 * MIB)
        host.loop_follow(first.backing_file)
        assert sizes() == [24, 24, 8]
    finally:
        host.loop_detach(second)
    host.loop_follow(make_image(4))  # nothing lies over it


def test_many_at_once_each_get_their_own(host: LinuxHost, make_image: MakeImage) -> None:
    images = [make_image(4) for _ in range(12)]
    found: list[LoopDevice] = []
    faults: list[BaseException] = []

    def attach(image: str) -> None:
        try:
            found.append(host.loop_attach(image, block_size=512))
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=attach, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert faults == []
        assert len({device.number for device in found}) == len(images)
        assert {device.backing_file for device in found} == set(images)
    finally:
        for device in found:
            host.loop_detach(device)


def test_what_cannot_work_is_said_and_leaves_nothing(
    host: LinuxHost, make_image: MakeImage, tmp_path: Path
) -> None:
    image = make_image(8)
    with pytest.raises(LoopFailed, match="powers of two from 512 to 65536"):
        host.loop_attach(image, block_size=513)
    with pytest.raises(CallFailed, match="ENOENT"):
        host.loop_attach(str(tmp_path / "none"), block_size=512)
    # 256 bytes would not suit direct I/O; a directory is no file to be a device over.
    with pytest.raises((CallFailed, LoopFailed)):
        host.loop_attach(str(tmp_path), block_size=512)


def test_direct_io_that_the_file_cannot_do_is_refused(host: LinuxHost, tmp_path: Path) -> None:
    # A block size below that of the device under the file: the kernel would silently drop direct
    # I/O. Built from two loop devices and an ext4 on 4096-byte blocks.
    outer_image = tmp_path / "outer"
    with outer_image.open("wb") as file:
        file.truncate(64 * MIB)
    outer = host.loop_attach(str(outer_image), block_size=4096)
    directory = tmp_path / "mnt"
    directory.mkdir()
    try:
        host.mkfs(outer.path, "ext4")
        host.mount(outer.path, str(directory), "ext4")
        try:
            inner = directory / "inner"
            inner.write_bytes(bytes(8 * MIB))
            before = host.loop_list()
            with pytest.raises(LoopFailed, match=r"direct I/O|LOOP_CONFIGURE"):
                host.loop_attach(str(inner), block_size=512)
            assert [d for d in host.loop_list() if d.backing_file == str(inner)] == []
            assert outer in before
            device = host.loop_attach(str(inner), block_size=512, direct_io=False)
            assert not device.direct_io
            host.loop_detach(device)
        finally:
            host.umount(str(directory))
    finally:
        host.loop_detach(outer)


@pytest.mark.skipif(shutil.which("losetup") is None, reason="util-linux is the oracle")
def test_losetup_sees_the_same(make_device: MakeDevice) -> None:
    import json
    import subprocess

    device = make_device(8, block_size=4096, read_only=True)
    listing = subprocess.run(
        ["losetup", "--json", "--list", "-O", "NAME,BACK-FILE,RO,DIO,LOG-SEC", device.path],
        check=True,
        capture_output=True,
    )
    (row,) = json.loads(listing.stdout)["loopdevices"]
    assert row["name"] == device.path
    assert row["back-file"] == device.backing_file
    assert bool(row["ro"])
    assert bool(row["dio"])
    assert int(row["log-sec"]) == 4096


def test_the_layout_is_the_kernel_headers() -> None:
    # linux/loop.h: sizeof(struct loop_info64) and sizeof(struct loop_config).
    assert loop_module._INFO.size == 232
    assert loop_module._CONFIG.size == 304


WITHOUT_NODES = """
import os, stat, subprocess, sys
from fusefs.host import LinuxHost
subprocess.run(["mount", "-t", "tmpfs", "none", "/dev"], check=True)
os.mknod("/dev/loop-control", stat.S_IFCHR | 0o600, os.makedev(10, 237))
host = LinuxHost()
device = host.loop_attach(sys.argv[1], block_size=512)
try:
    found = os.stat(device.path)
    assert stat.S_ISBLK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600, found
    with open(device.path, "rb") as opened:
        print(opened.read(7).decode())
finally:
    host.loop_detach(device)
"""


def test_a_dev_to_which_the_kernel_adds_no_nodes(make_image: MakeImage) -> None:
    """The /dev of a container, or of a cluster's node that is a container."""
    image = make_image(1)
    Path(image).write_bytes(b"content" + bytes(MIB - 7))
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", WITHOUT_NODES, image],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.stdout == "content\n", done.stderr
