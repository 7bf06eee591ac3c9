# SPDX-License-Identifier: Apache-2.0
"""Mounting, binding, unmounting on this kernel."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fusefs.errors import CallFailed, InvalidSpec, MountBusy, MountFailed, NotAllowed
from fusefs.host import LinuxHost, mountinfo, syscalls
from fusefs.host.mounts import READ_ONLY_OPTIONS, mount_options, split_options
from tests.fusefs.host.conftest import MIB, MakeDevice, MakeImage


def test_options_become_flags_and_data() -> None:
    flags, data = split_options(["noatime", "ro", "rw", "nodev", "discard", "commit=5", "defaults"])
    assert flags == syscalls.MS_NOATIME | syscalls.MS_NODEV
    assert data == ("discard", "commit=5")
    assert split_options(["_netdev", "x-systemd.automount", "nofail"]) == (0, ())


@pytest.mark.parametrize("option", ["bind", "remount", "loop=/dev/loop1", "user", "move"])
def test_options_that_are_another_operation_are_refused(option: str) -> None:
    with pytest.raises(InvalidSpec, match="is another operation"):
        split_options([option])


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs", "vfat"])
def test_read_only_all_the_way(fstype: str) -> None:
    flags, data = mount_options(fstype, ["noatime"], read_only=True)
    assert flags & syscalls.MS_RDONLY
    errors = ("errors=remount-ro",) if fstype == "ext4" else ()
    assert data == errors + READ_ONLY_OPTIONS.get(fstype, ())
    assert mount_options(fstype, ["ro"], read_only=False)[1] == errors
    assert mount_options(fstype, ["errors=continue"], read_only=False)[1] == ("errors=continue",)


@pytest.mark.root
def test_a_superblock_does_not_stop_the_host(
    host: LinuxHost, make_image: MakeImage, directory: str
) -> None:
    """It says what the kernel does at an error, and whoever made the disk may have written panic.
    An option that says what the superblock says is not shown."""
    image = make_image(16, "mkfs.ext4", "-q", "-F")
    subprocess.run(["tune2fs", "-e", "panic", image], check=True, capture_output=True)
    device = host.loop_attach(image, block_size=512)
    try:
        host.mount(device.path, directory, "ext4")
        entry = mountinfo.find(directory)
        assert entry is not None
        assert "errors=remount-ro" in entry.super_options
        host.umount(directory)
    finally:
        host.loop_detach(device)


@pytest.mark.root
@pytest.mark.parametrize(("fstype", "mib"), [("ext4", 64), ("xfs", 300), ("btrfs", 160)])
def test_read_only_leaves_a_dirty_device_untouched(
    host: LinuxHost,
    make_device: MakeDevice,
    directory: str,
    fstype: str,
    mib: int,
) -> None:
    device = make_device(mib)
    host.mkfs(device.path, fstype)
    host.mount(device.path, directory, fstype)
    try:
        Path(directory, "file").write_text("content")
        host.umount(directory)  # without its log XFS shows what was checkpointed, no more
        host.mount(device.path, directory, fstype)
        fd = os.open(f"{directory}/later", os.O_WRONLY | os.O_CREAT)
        os.fsync(fd)  # only in the log: replaying it would write
        os.close(fd)
        crashed = Path(device.backing_file + ".crashed")
        crashed.write_bytes(Path(device.backing_file).read_bytes())
    finally:
        host.umount(directory)
    before = crashed.read_bytes()
    copy = host.loop_attach(str(crashed), block_size=512, read_only=True)
    try:
        assert host.probe(copy.path).log_pending is (fstype != "xfs")
        assert not host.probe(device.path).log_pending
        host.mount(copy.path, directory, fstype, read_only=True)
        try:
            assert Path(directory, "file").read_text() == "content"
            with pytest.raises(OSError, match="Read-only"):
                Path(directory, "new").write_text("x")
            entry = mountinfo.find(directory)
            assert entry is not None
            assert entry.read_only
        finally:
            host.umount(directory)
    finally:
        host.loop_detach(copy)
    assert crashed.read_bytes() == before


@pytest.mark.root
def test_a_failed_mount_says_what_the_kernel_said(
    host: LinuxHost, make_device: MakeDevice, directory: str
) -> None:
    device = make_device(16)
    with pytest.raises(MountFailed) as caught:
        host.mount(device.path, directory, "ext4")
    assert caught.value.errno == errno.EINVAL
    assert (caught.value.source, caught.value.target) == (device.path, directory)
    if os.access("/dev/kmsg", os.R_OK):
        assert device.path.removeprefix("/dev/") in caught.value.detail
        assert "kernel says" in str(caught.value)


@pytest.mark.root
@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("option", ["nonsense", "nonsense=1"])
def test_an_option_that_the_filesystem_does_not_take(
    host: LinuxHost, make_device: MakeDevice, directory: str, fstype: str, option: str
) -> None:
    device = make_device(300)
    host.mkfs(device.path, fstype)
    with pytest.raises(InvalidSpec, match=f"{fstype} does not take it.*nonsense") as caught:
        host.mount(device.path, directory, fstype, options=["noatime", option])
    assert caught.value.value == option


@pytest.mark.root
def test_other_ways_a_mount_fails(
    host: LinuxHost, make_device: MakeDevice, directory: str, tmp_path: Path
) -> None:
    device = make_device(16, "mkfs.ext4", "-q", read_only=True)
    with pytest.raises(MountFailed, match="does not know the filesystem"):
        host.mount(device.path, directory, "nosuchfs")
    with pytest.raises(MountFailed, match="attach the volume read-only"):
        host.mount(device.path, directory, "ext4")
    with pytest.raises(MountFailed, match="ENOENT"):
        host.mount(device.path, str(tmp_path / "none"), "ext4", read_only=True)


@pytest.mark.root
def test_a_bind_shows_the_same_and_can_be_read_only(host: LinuxHost, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "tar get"
    for one in (source, target):
        one.mkdir()
    host.bind(str(source), str(target))
    (target / "file").write_text("through")
    assert (source / "file").read_text() == "through"
    assert host.umount(str(target))
    host.bind(str(source), str(target), read_only=True)
    with pytest.raises(OSError, match="Read-only"):
        (target / "file").write_text("no")
    (source / "file").write_text("still writable here")
    entry = mountinfo.find(str(target))
    assert entry is not None
    assert entry.read_only
    assert host.umount(str(target))
    assert not host.umount(str(target))


@pytest.mark.root
def test_a_read_only_bind_keeps_the_other_flags(
    host: LinuxHost, make_device: MakeDevice, directory: str, tmp_path: Path
) -> None:
    device = make_device(16, "mkfs.ext4", "-q")
    target = tmp_path / "target"
    target.mkdir()
    host.mount(device.path, directory, "ext4", options=["nosuid", "nodev", "noexec", "noatime"])
    try:
        host.bind(directory, str(target), read_only=True)
        entry = mountinfo.find(str(target))
        assert entry is not None
        assert {"ro", "nosuid", "nodev", "noexec", "noatime"} <= set(entry.options)
        host.umount(str(target))
    finally:
        host.umount(directory)


@pytest.mark.root
def test_a_file_can_be_bound(host: LinuxHost, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("content")
    with pytest.raises(MountFailed, match="make the target first"):
        host.bind(str(source), str(target))
    target.touch()
    host.bind(str(source), str(target))
    assert target.read_text() == "content"
    host.umount(str(target))


@pytest.mark.root
def test_a_busy_mount_names_the_process(
    host: LinuxHost, make_device: MakeDevice, directory: str
) -> None:
    device = make_device(16, "mkfs.ext4", "-q")
    host.mount(device.path, directory, "ext4")
    Path(directory, "held").touch()
    code = "import os, sys; f = open('held'); print('ready', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(MountBusy) as caught:
            host.umount(directory)
        assert caught.value.pids == (process.pid,)
        assert {user.how for user in caught.value.users} == {"working directory", "open file"}
        assert f"pid {process.pid}" in str(caught.value)
        assert host.mount_users(directory) == list(caught.value.users)
    finally:
        process.communicate()
    assert host.umount(directory)


@pytest.mark.root
def test_a_mapped_file_is_named(host: LinuxHost, make_device: MakeDevice, directory: str) -> None:
    device = make_device(16, "mkfs.ext4", "-q")
    host.mount(device.path, directory, "ext4")
    Path(directory, "held").write_bytes(bytes(4096))
    code = (
        "import mmap, os, sys; f = os.open(sys.argv[1], os.O_RDWR); "
        "m = mmap.mmap(f, 4096); os.close(f); os.close(m.fd) if hasattr(m, 'fd') else None; "
        "print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"{directory}/held"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(MountBusy) as caught:
            host.umount(directory)
        assert process.pid in caught.value.pids
        assert "mapped file" in {user.how for user in caught.value.users}
    finally:
        process.communicate()
    assert host.umount(directory)


@pytest.mark.root
def test_a_mount_below_is_named(host: LinuxHost, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    host.bind(str(outer), str(outer))
    inner = outer / "inner"
    inner.mkdir()
    host.bind(str(inner), str(inner))
    with pytest.raises(MountBusy) as caught:
        host.umount(str(outer))
    assert caught.value.mounts == (str(inner),)
    assert host.umount(str(inner))
    assert host.umount(str(outer))


@pytest.mark.root
def test_lazily_even_a_busy_mount_goes(
    host: LinuxHost, make_device: MakeDevice, directory: str
) -> None:
    device = make_device(16, "mkfs.ext4", "-q")
    host.mount(device.path, directory, "ext4")
    with open(f"{directory}/held", "w") as held:
        assert host.umount(directory, lazy=True)
        assert mountinfo.find(directory) is None
        held.write("still works")
    host.loop_detach(device)


@pytest.mark.root
def test_a_directory_of_ours(host: LinuxHost, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    host.prepare_directory(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o777)
    host.prepare_directory(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(CallFailed, match=r"ELOOP|ENOTDIR"):
        host.prepare_directory(str(link))
    other = tmp_path / "other"
    other.mkdir()
    os.chown(other, 65534, 65534)
    with pytest.raises(NotAllowed, match="belongs to user 65534"):
        host.prepare_directory(str(other))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CallFailed, match=r"EEXIST|ENOTDIR"):
        host.prepare_directory(str(file))


@pytest.mark.root
def test_what_is_private_cannot_be_bound_and_does_not_propagate(
    host: LinuxHost, make_image: MakeImage, tmp_path: Path
) -> None:
    private, other = tmp_path / "private", tmp_path / "other"
    for one in (private, other):
        one.mkdir()
    host.make_private_unbindable(str(private))
    host.make_private_unbindable(str(private))  # again changes nothing
    assert sum(entry.mountpoint == str(private) for entry in host.mounts()) == 1
    entry = mountinfo.find(str(private))
    assert entry is not None
    assert entry.unbindable
    assert entry.peer_group is None
    with pytest.raises(MountFailed, match="unbindable"):
        host.bind(str(private), str(other))
    device = host.loop_attach(make_image(16, "mkfs.ext4", "-q"), block_size=512)
    inside = private / "inside"
    inside.mkdir()
    host.mount(device.path, str(inside), "ext4")
    mounted = mountinfo.find(str(inside))
    assert mounted is not None
    assert mounted.peer_group is None
    host.umount(str(inside))
    host.loop_detach(device)
    host.umount(str(private))


@pytest.mark.root
def test_a_failed_step_can_be_rolled_back_to_nothing(
    host: LinuxHost, make_image: MakeImage, directory: str
) -> None:
    """Acquire, fail at the last step, release in reverse: the fixture counts what is left."""
    image = make_image(16)
    device = host.loop_attach(image, block_size=4096)
    try:
        host.assert_formattable(device.path)
        host.mkfs(device.path, "ext4")
        host.mount(device.path, directory, "ext4")
        try:
            with pytest.raises(MountFailed):
                host.bind(directory, directory + "-missing")
        finally:
            assert host.umount(directory)
    finally:
        host.loop_detach(device)
    assert os.path.getsize(image) == 16 * MIB
