# SPDX-License-Identifier: Apache-2.0
"""Loop devices: a file as a block device, through the ioctls of the loop driver.

LOOP_CONFIGURE sets file, block size, read-only and direct I/O at once, so the device is never seen
half configured. The logical block size is that of the LUN: on a 4096-byte LUN a smaller one would
turn into read-modify-write. Direct I/O is required, not wished for: without it the page cache holds
acknowledged writes twice, and memory pressure waits for a FUSE server that waits for memory. The
kernel drops a wish for direct I/O silently, so it is looked up afterwards.

Everything else about an attached device is read from sysfs, which asks the driver only: the status
ioctl asks the backing file for its inode, and a FUSE file whose server is dead does not answer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from pathlib import Path

from fusefs.errors import CallFailed, DeviceBusy, LoopFailed, NotAllowed
from fusefs.host.apart import apart
from fusefs.host.blocking import bounded
from fusefs.host.busy import device_mounts, device_users
from fusefs.host.records import LoopDevice

LOOP_CLR_FD = 0x4C01
LOOP_GET_STATUS64 = 0x4C05
LOOP_SET_CAPACITY = 0x4C07
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82

LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16

LOOP_MAJOR = 7
CONTROL = "/dev/loop-control"
MAX_BLOCK_SIZE = 65536
NODE_MODE = 0o600

# lo_device lo_inode lo_rdevice lo_offset lo_sizelimit, lo_number lo_encrypt_type
# lo_encrypt_key_size lo_flags, lo_file_name lo_crypt_name lo_encrypt_key, lo_init (linux/loop.h)
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_CONFIG = struct.Struct(f"=II{_INFO.size}s8Q")

# Between "which number is free" and taking it, another process may take it. Each lost race costs
# two system calls; 64 of them in a row are not a race.
_ATTEMPTS = 64
_POLL_S = 0.02
OPEN_PATIENCE_S = 2.0
"""How long a detach waits for somebody who has the device open, before it refuses."""

_held: dict[tuple[int, int | None], int] = {}
"""Our descriptors of devices that go with their last user, by number and diskseq."""


def attach(
    file: str,
    *,
    block_size: int,
    read_only: bool,
    direct_io: bool = True,
    held: bool = False,
    timeout_s: float,
) -> LoopDevice:
    """Attach ``file``; see ``Host.loop_attach``."""
    if block_size < 512 or block_size > MAX_BLOCK_SIZE or block_size & (block_size - 1):
        raise LoopFailed(
            file,
            f"a block size of {block_size} is none the loop driver can do",
            remedy="it takes powers of two from 512 to 65536",
        )
    return bounded(
        f"attaching {file} to a loop device",
        timeout_s,
        lambda: _attach(file, block_size, read_only, direct_io, held),
        undo=_take_back,
    )


def _attach(file: str, block_size: int, read_only: bool, direct_io: bool, held: bool) -> LoopDevice:
    mode = os.O_RDONLY if read_only else os.O_RDWR
    try:
        backing = os.open(file, mode | os.O_CLOEXEC)
    except OSError as fault:
        raise CallFailed("open", file, fault.errno or 0) from fault
    flags = (
        (LO_FLAGS_READ_ONLY if read_only else 0)
        | (LO_FLAGS_DIRECT_IO if direct_io else 0)
        | (LO_FLAGS_AUTOCLEAR if held else 0)
    )
    node = -1
    try:
        number, node = _configure(backing, file, block_size, read_only, flags)
        device = _verify(number, backing, file, block_size, read_only, direct_io)
        if held:
            _held[number, device.diskseq], node = node, -1
        return device
    finally:
        os.close(backing)
        if node >= 0:
            os.close(node)


def _configure(
    backing: int, file: str, block_size: int, read_only: bool, flags: int
) -> tuple[int, int]:
    """The number of a device that is over ``backing`` now, and a descriptor of it."""
    name = os.fsencode(file)[-63:]
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    config = _CONFIG.pack(backing, block_size, info, *[0] * 8)
    control = _open_control()
    try:
        for _ in range(_ATTEMPTS):
            number = _free_number(control, file)
            device = _open_device(number, read_only)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, config)
            except OSError as fault:
                os.close(device)
                if fault.errno == errno.EBUSY:
                    continue
                raise LoopFailed(
                    file,
                    f"LOOP_CONFIGURE: {fault.strerror}",
                    device=f"/dev/loop{number}",
                    remedy="Linux 5.8 or newer is needed"
                    if fault.errno in (errno.ENOTTY, errno.EINVAL)
                    else "",
                ) from fault
            return number, device
    finally:
        os.close(control)
    raise LoopFailed(file, f"{_ATTEMPTS} free loop devices in a row were taken by others")


def _open_control() -> int:
    try:
        return os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as fault:
        raise NotAllowed(
            "attach a loop device", f"{CONTROL}: {fault.strerror}", remedy="run as root"
        ) from fault
    except OSError as fault:
        raise NotAllowed(
            "attach a loop device",
            f"{CONTROL}: {fault.strerror}",
            remedy="load the module `loop`, and give the container this device node",
        ) from fault


def _free_number(control: int, file: str) -> int:
    try:
        return int(fcntl.ioctl(control, LOOP_CTL_GET_FREE))
    except OSError as fault:
        raise LoopFailed(file, f"no loop device is free: {fault.strerror}") from fault


def _open_device(number: int, read_only: bool) -> int:
    path = f"/dev/loop{number}"
    try:
        _make_node(path, number)
        return os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    except PermissionError as fault:
        raise NotAllowed(
            f"open {path}",
            fault.strerror or "",
            remedy="run as root, and allow block devices 7:* in the container",
        ) from fault
    except OSError as fault:
        raise NotAllowed(
            f"open {path}",
            fault.strerror or "",
            remedy="in a container, mount the host's /dev: loop device nodes appear while it runs",
        ) from fault


def _make_node(path: str, number: int) -> None:
    """The kernel makes the node of a new device in devtmpfs alone; the /dev of a container, or of a
    node that is one, is often something else."""
    if not Path(path).exists():
        with contextlib.suppress(FileExistsError):  # of another attach, or it has just appeared
            os.mknod(path, stat.S_IFBLK | NODE_MODE, os.makedev(LOOP_MAJOR, number))


def _verify(
    number: int, backing: int, file: str, block_size: int, read_only: bool, direct_io: bool
) -> LoopDevice:
    """That the device is over our file and as asked for; otherwise it is given back."""
    device = read(number)
    path = f"/dev/loop{number}"
    # The inode number alone: the kernel writes its device number in an older format here.
    if device is None or _backing_inode(number) != os.fstat(backing).st_ino:
        raise LoopFailed(file, "someone else detached it again at once", device=path)
    if direct_io and not device.direct_io:
        _clear(number)
        raise LoopFailed(
            file,
            "the kernel refused direct I/O to this file",
            device=path,
            remedy="the block size must suit the file below, and its filesystem must do direct I/O",
        )
    if device.block_size != block_size or device.read_only != read_only:
        _clear(number)
        raise LoopFailed(
            file,
            f"block size is {device.block_size} and read-only {device.read_only}, "
            f"wanted {block_size} and {read_only}",
            device=path,
        )
    return device


def _backing_inode(number: int) -> int | None:
    fd = _open_device(number, read_only=True)
    try:
        status = fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(_INFO.size))
    except OSError as fault:
        if fault.errno == errno.ENXIO:
            return None
        raise
    finally:
        os.close(fd)
    return int(_INFO.unpack(status)[1])


def _clear(number: int) -> None:
    fd = os.open(f"/dev/loop{number}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, LOOP_CLR_FD)
    except OSError as fault:
        if fault.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)


def _take_back(late: LoopDevice) -> None:
    _clear(late.number)
    _let_go(late)


def _let_go(device: LoopDevice) -> None:
    """Close our descriptor of a device that goes with its last user."""
    node = _held.pop((device.number, device.diskseq), -1)
    if node >= 0:
        os.close(node)


def detach(device: LoopDevice, *, lazy: bool, timeout_s: float) -> None:
    """Detach; see ``Host.loop_detach``."""
    if (device.number, device.diskseq) in _held:
        bounded(f"closing {device.path}", timeout_s, lambda: _let_go(device))
    present = read(device.number)
    if present is None or not present.same_attachment(device):
        return
    deadline = time.monotonic() + timeout_s
    if not lazy:
        mounts = device_mounts(LOOP_MAJOR, device.number)
        if mounts:
            raise DeviceBusy(device.path, mounts=mounts)
        # Once told to go it goes with its last user, and nothing takes that back: so they are
        # looked for before. Who only looks at a new device is gone in a moment.
        patience = min(deadline, time.monotonic() + OPEN_PATIENCE_S)
        while users := device_users(device.path):
            if time.monotonic() >= patience:
                raise DeviceBusy(device.path, users=users)
            time.sleep(_POLL_S)
    try:
        bounded(f"detaching {device.path}", timeout_s, lambda: _clear(device.number))
    except OSError as fault:
        raise CallFailed("LOOP_CLR_FD", device.path, fault.errno or 0) from fault
    while not lazy:
        present = read(device.number)
        if present is None or not present.same_attachment(device):
            return
        if time.monotonic() >= deadline:
            raise DeviceBusy(
                device.path,
                users=device_users(device.path),
                mounts=device_mounts(LOOP_MAJOR, device.number),
                reason="it goes away with its last user",
            )
        time.sleep(_POLL_S)


def set_capacity(device: LoopDevice, *, timeout_s: float) -> LoopDevice:
    """Take over the new size of the backing file; see ``Host.loop_set_capacity``."""

    present = read(device.number)
    if present is None or not present.same_attachment(device):
        raise LoopFailed(device.backing_file, "it is not attached any more", device=device.path)
    try:
        bounded(f"growing {device.path}", timeout_s, lambda: _set_capacity(device))
    except OSError as fault:
        raise CallFailed("LOOP_SET_CAPACITY", device.path, fault.errno or 0) from fault
    after = read(device.number)
    if after is None:
        raise LoopFailed(device.backing_file, "it was detached meanwhile", device=device.path)
    return after


def _set_capacity(device: LoopDevice) -> None:
    # Before Linux 6.16 the driver takes the size that the kernel remembers; asking refreshes it.
    with contextlib.suppress(OSError):
        Path(device.backing_file).stat()
    fd = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, LOOP_SET_CAPACITY)
    finally:
        os.close(fd)


def follow(file: str, *, timeout_s: float) -> None:
    """Have the devices over a file grow with it; see ``Host.loop_follow``."""

    def call() -> None:
        for device in attached():
            if device.backing_file != file:
                continue
            if Path(file).stat().st_size - device.size_bytes >= 512:
                _set_capacity(device)

    apart("LOOP_SET_CAPACITY", file, timeout_s, call)


def read(number: int) -> LoopDevice | None:
    """The attached device of this number, from sysfs, or None."""
    base = Path(f"/sys/block/loop{number}")
    try:
        name = os.fsdecode((base / "loop/backing_file").read_bytes()).removesuffix("\n")
        return LoopDevice(
            path=f"/dev/loop{number}",
            number=number,
            backing_file=name,
            block_size=_number(base / "queue/logical_block_size"),
            size_bytes=_number(base / "size") * 512,
            read_only=_number(base / "ro") == 1,
            direct_io=_number(base / "loop/dio") == 1,
            diskseq=_number(base / "diskseq") if (base / "diskseq").exists() else None,
        )
    except OSError:
        return None


def _number(path: Path) -> int:
    return int(path.read_text())


def attached() -> list[LoopDevice]:
    """Every attached loop device of the host, by number."""
    numbers = sorted(
        int(entry.name.removeprefix("loop"))
        for entry in Path("/sys/block").glob("loop*")
        if entry.name.removeprefix("loop").isdigit()
    )
    return [device for number in numbers if (device := read(number)) is not None]
