# SPDX-License-Identifier: Apache-2.0
"""doctor: what this host can do and what it lacks, one line each, with the remedy.

``missing`` stands in the way of volumes, ``less`` makes something worse or impossible that many do
without. It changes nothing.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import click

from fusefs.cli import leftovers, output, runner
from fusefs.cli.exit_codes import FAILED
from fusefs.cli.extras import EXTRAS
from fusefs.cli.options import common_options, json_option
from fusefs.cli.output import Invocation
from fusefs.host import Capabilities, Host, LinuxHost
from fusefs.host.fuse_mount import DEVICE
from fusefs.host.loop import CONTROL
from fusefs.host.namespaces import NAMED
from fusefs.host.process import CAP_SYS_ADMIN
from fusefs.spec import FILESYSTEMS
from fusefs.volume.manager import VolumeManager
from fusefs.volume.paths import Directories
from fusefs.volume.status import VolumeStatus
from pyscsi_init.errors import ConfigurationError
from pyscsi_init.transport import find_initiator_name

OK, LESS, MISSING = "ok", "less", "missing"

LOOP_CONFIGURE_SINCE = (5, 8)
ONE_FUSE_IN_MANY_NAMESPACES_SINCE = (5, 15)

_DEVICE_RULES = {
    DEVICE: f"docker run --device {DEVICE}",
    CONTROL: f"docker run --device {CONTROL} --device-cgroup-rule 'b 7:* rwm'",
}
_CHECKERS = {"ext4": ("mkfs.ext4", "e2fsck"), "xfs": ("mkfs.xfs",), "btrfs": ("mkfs.btrfs",)}
_PACKAGES = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    level: str
    found: str
    remedy: str = ""


@click.command(epilog="\b\nExample:\n  pyscsi-init doctor --json")
@json_option
@common_options
@click.pass_obj
def doctor(invocation: Invocation) -> int:
    """What this host can do and what it lacks; ends with 1 if volumes cannot work here."""
    host = LinuxHost()
    findings = [*look(host), *_volumes(host)]
    if invocation.json:
        output.document([asdict(finding) for finding in findings])
    else:
        marks = {OK: "ok", LESS: "less", MISSING: "MISSING"}
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            output.write(
                f"{_colour(marks[finding.level])}  {finding.what.ljust(width)}  "
                f"{output.printable(finding.found + remedy)}\n"
            )
    return FAILED if any(finding.level == MISSING for finding in findings) else 0


def _colour(mark: str) -> str:
    text = mark.ljust(7)
    if not sys.stdout.isatty():
        return text
    return {"ok": "\x1b[32m", "less": "\x1b[33m", "MISSING": "\x1b[31m"}[mark] + text + "\x1b[0m"


def look(host: Host) -> Iterator[Finding]:
    """Everything but the volumes."""
    can = host.capabilities()
    yield Finding("python", OK, f"{platform.python_version()} at {sys.executable}")
    yield from _modules()
    yield _initiator_name()
    yield _kernel(can)
    yield from _rights(can)
    yield _fuse(can)
    yield _loop(can)
    yield from _filesystems(can)
    yield from _programs(can)
    yield from _protections(can)
    yield _docker(can)
    yield _networks(can)


def _yes(what: str, there: bool, why: str, remedy: str, level: str = MISSING) -> Finding:
    return Finding(what, OK, "yes") if there else Finding(what, level, why, remedy)


def _modules() -> Iterator[Finding]:
    yield _crc32c()
    for extra in EXTRAS:
        what = f"extra {extra.name}"
        if lacks := extra.missing():
            yield Finding(
                what, LESS, f"{', '.join(lacks)} not installed: {extra.without}", extra.remedy
            )
        else:
            yield Finding(what, OK, extra.versions())


def _crc32c() -> Finding:
    import crc32c

    version = importlib.metadata.version("crc32c")
    if getattr(crc32c, "hardware_based", False):
        return Finding("crc32c", OK, f"{version}, in hardware")
    return Finding(
        "crc32c", LESS, f"{version}, in software", "digests cost more CPU on this processor"
    )


def _initiator_name() -> Finding:
    # Looked up without being made: doctor changes nothing.
    try:
        name, source = find_initiator_name()
    except ConfigurationError as error:
        return Finding("initiator name", LESS, str(error), "correct the file")
    if not name:
        return Finding("initiator name", OK, f"none yet: one will be made and kept in {source}")
    return Finding("initiator name", OK, f"{name} ({source})")


def _kernel(can: Capabilities) -> Finding:
    version = can.kernel_version
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < LOOP_CONFIGURE_SINCE:
        return Finding("kernel", MISSING, f"{version} is older than 5.8", "use a newer kernel")
    if numbers < ONE_FUSE_IN_MANY_NAMESPACES_SINCE:
        return Finding(
            "kernel",
            LESS,
            f"{version} is older than 5.15: front door and data plane in pods of their own cannot "
            "share a volume",
            "have both in one mount namespace, such as on the host, or use a newer kernel",
        )
    return Finding("kernel", OK, version)


def _rights(can: Capabilities) -> Iterator[Finding]:
    yield _yes("root", can.is_root, "volumes need it", "run attach and mount as root")
    if can.is_root:
        yield _yes(
            "CAP_SYS_ADMIN",
            bool(can.effective_capabilities >> CAP_SYS_ADMIN & 1),
            "nothing can be mounted without it",
            "docker run --cap-add SYS_ADMIN; in a pod: privileged: true",
        )
    if not can.is_initial_user:
        yield Finding(
            "user namespace",
            MISSING,
            "root here is not root of the machine, and the kernel gives it no loop devices",
            "run it without a user namespace (in a pod: hostUsers: true), or use the library alone",
        )


def _fuse(can: Capabilities) -> Finding:
    if not can.has_fuse:
        remedy = "modprobe fuse, or pass it in"
        return Finding(DEVICE, MISSING, "there is no such device", remedy)
    return _opened(can, DEVICE, DEVICE) or Finding(DEVICE, OK, "yes")


def _loop(can: Capabilities) -> Finding:
    what = "loop devices"
    if not can.has_loop:
        remedy = "modprobe loop, or pass the devices in"
        return Finding(what, MISSING, f"there is no {CONTROL}", remedy)
    for path in sorted(can.refused_devices):
        if path != DEVICE and (found := _opened(can, what, path)):
            return found
    if not can.shows_new_devices:
        return Finding(
            what,
            LESS,
            "new ones do not appear in this /dev; their nodes are made when they are needed, which "
            "CAP_MKNOD and the device group must allow",
            "mount the host's /dev",
        )
    return Finding(what, OK, "yes")


def _opened(can: Capabilities, what: str, path: str) -> Finding | None:
    """Why a device that is there cannot be opened; None where it can."""
    number = can.refused_devices.get(path)
    if number is None:
        return None
    found = f"{path} is there and cannot be opened: {os.strerror(number)}"
    if number == errno.EPERM:
        return Finding(
            what,
            MISSING,
            f"{found}; the device group of this container refuses it",
            _DEVICE_RULES.get(path, "docker run --device-cgroup-rule 'b 7:* rwm'")
            + "; in a pod: privileged: true",
        )
    if number == errno.EACCES:
        return Finding(what, MISSING, found, "run as root")
    return Finding(what, MISSING, found, f"modprobe {'fuse' if path == DEVICE else 'loop'}")


def _filesystems(can: Capabilities) -> Iterator[Finding]:
    for fstype in FILESYSTEMS:
        kernel = can.can_mount(fstype)
        missing = [name for name in _CHECKERS[fstype] if can.programs.get(name) is None]
        if kernel and not missing:
            yield Finding(fstype, OK, "kernel and programs")
            continue
        lacks = [] if kernel else ["the running kernel does not list it"]
        lacks += [f"{name} is not installed" for name in missing]
        remedies = [] if kernel else [f"modprobe {fstype}"]
        remedies += [f"apt-get install {_PACKAGES[fstype]}"] if missing else []
        yield Finding(fstype, LESS, ", ".join(lacks), "; ".join(remedies))


def _programs(can: Capabilities) -> Iterator[Finding]:
    missing = [name for name in ("blkid", "wipefs") if can.programs.get(name) is None]
    yield _yes(
        "blkid, wipefs",
        not missing,
        f"not installed: {', '.join(missing)}",
        "apt-get install util-linux",
    )
    yield _yes(
        "busybox",
        can.programs.get("busybox") is not None,
        "not installed: the demo needs it",
        "apt-get install busybox-static",
        LESS,
    )


def _protections(can: Capabilities) -> Iterator[Finding]:
    remedy = "grant CAP_SYS_RESOURCE"
    for what, allowed, why in (
        (
            "PR_SET_IO_FLUSHER",
            can.io_flusher_allowed,
            "not allowed: under memory pressure a worker may wait for itself",
        ),
        (
            "locked memory",
            can.memory_lock_allowed,
            "RLIMIT_MEMLOCK is too low: a worker may be swapped out",
        ),
        (
            "oom_score_adj",
            can.oom_score_adj_allowed,
            "not allowed: the kernel may choose a worker when it is out of memory",
        ),
        (
            "FUSE control",
            can.fuse_control_allowed,
            "not allowed: a connection cannot be aborted, nor its queue be made longer",
        ),
    ):
        yield _yes(what, allowed, why, remedy if what != "FUSE control" else "run as root", LESS)


def _docker(can: Capabilities) -> Finding:
    if can.docker_socket is not None:
        return Finding("Docker Engine", OK, f"answers at {can.docker_socket}")
    return Finding(
        "Docker Engine", LESS, "none answers", "start one, if containers shall use volumes"
    )


def _networks(can: Capabilities) -> Finding:
    """Named network namespaces, which a pod sees only if it is given them."""
    what = "named networks"
    if can.named_networks is None:
        return Finding(what, OK, f"none: there is no {NAMED}, and volumes use this network")
    empty = [name for name, entered in can.named_networks.items() if not entered]
    if empty:
        return Finding(
            what,
            LESS,
            f"{', '.join(empty)} in {NAMED} cannot be entered from here: the mount did not come "
            "in, or the namespace is gone",
            f"mount {NAMED} with propagation (docker: rslave, in a pod: HostToContainer); of one "
            "that is gone: ip netns delete NAME",
        )
    return Finding(what, OK, ", ".join(can.named_networks) or "none, and volumes use this network")


def _volumes(host: Host) -> Iterator[Finding]:
    """Volumes that have failed, and pieces of volumes that nobody owns."""
    directories = Directories()
    if directories.run.exists() and not os.access(directories.run, os.R_OK | os.X_OK):
        yield Finding("volumes", LESS, f"{directories.run} cannot be read", "run as root")
        return
    manager = VolumeManager(host)
    volumes: list[VolumeStatus] = runner.run(manager.status)
    holder = runner.run(manager.holder.status)
    yield Finding("volumes", OK, ", ".join(f"{v.name} ({v.state})" for v in volumes) or "none")
    for volume in volumes:
        if volume.failed:
            yield Finding(
                "volume",
                LESS,
                f"{volume.name} has failed: {volume.last_error}",
                f"pyscsi-init umount {volume.name} --force",
            )
    for note in holder.notes:
        yield Finding("control group", LESS, note, "run where control groups can be made")
    owned = {volume.worker_pid for volume in volumes} | {holder.pid, holder.zygote_pid}
    own_directories = [str(directories.volume(volume.name).directory) for volume in volumes]
    for pid, text in leftovers.data_path().items():
        if pid not in owned and leftovers.serves(pid, directories.run):
            yield Finding("leftover", LESS, f"process {pid} ({text}) of no volume", f"kill {pid}")
    for entry in host.mounts():
        place = entry.mountpoint
        if leftovers.is_under(place, str(directories.volumes)) and not any(
            leftovers.is_under(place, owner) for owner in own_directories
        ):
            yield Finding("leftover", LESS, f"mount {place} of no volume", f"umount -l {place}")
    for device in host.loop_list():
        file = device.backing_file
        if leftovers.is_under(file, str(directories.volumes)) and not any(
            leftovers.is_under(file, owner) for owner in own_directories
        ):
            yield Finding(
                "leftover", LESS, f"{device.path} over {file}", f"losetup -d {device.path}"
            )
