# SPDX-License-Identifier: Apache-2.0
"""doctor: what this host can do and what it lacks, one line each, with the remedy.

``missing`` stands in the way of volumes, ``less`` makes something worse or impossible that many do
without. It changes nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import click

from fusefs.cli import leftovers, output, runner
from fusefs.cli.exit_codes import FAILED
from fusefs.cli.options import common_options, json_option
from fusefs.cli.output import Invocation
from fusefs.host import Capabilities, Host, LinuxHost
from fusefs.spec import FILESYSTEMS
from fusefs.volume.manager import VolumeManager
from fusefs.volume.paths import Directories
from fusefs.volume.status import VolumeStatus
from pyscsi_init.errors import ConfigurationError
from pyscsi_init.transport import find_initiator_name

OK, LESS, MISSING = "ok", "less", "missing"

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
    yield Finding("kernel", OK, can.kernel_version)
    yield _yes("root", can.is_root, "volumes need it", "run attach and mount as root")
    yield _yes("/dev/fuse", can.has_fuse, "there is no such device", "modprobe fuse, or pass it in")
    yield _yes(
        "loop devices",
        can.has_loop,
        "there is no /dev/loop-control",
        "modprobe loop, or pass the devices in",
    )
    yield from _filesystems(can)
    yield from _programs(can)
    yield from _protections(can)
    yield _docker(can)


def _yes(what: str, there: bool, why: str, remedy: str, level: str = MISSING) -> Finding:
    return Finding(what, OK, "yes") if there else Finding(what, level, why, remedy)


def _modules() -> Iterator[Finding]:
    yield _crc32c()
    for module, without, remedy in (
        (
            "uvloop",
            "asyncio's own loop is used, which is slower",
            "pip install 'pyscsi-init[uvloop]'",
        ),
        ("pyfuse3", "--fuse pyfuse3 cannot be had", "pip install 'pyscsi-init[pyfuse3]'"),
    ):
        if importlib.util.find_spec(module) is None:
            yield Finding(module, LESS, f"not installed: {without}", remedy)
        else:
            yield Finding(module, OK, importlib.metadata.version(module))


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
