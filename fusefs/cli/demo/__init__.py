# SPDX-License-Identifier: Apache-2.0
"""demo: the whole path on this machine, with real parts, in a directory that is gone afterwards.

The last line is ``demo: ok`` only if every claim was checked and nothing is left: no mount, no loop
device, no FUSE connection, no session, no process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from fusefs.cli import leftovers, output, runner
from fusefs.cli.demo.scenario import Scenario
from fusefs.cli.demo.servers import SERVERS
from fusefs.cli.demo.story import DemoFailed, Story
from fusefs.cli.options import common_options
from fusefs.cli.signals import deferred
from fusefs.errors import NotAllowed
from fusefs.host import Capabilities, LinuxHost, process_group
from fusefs.volume.paths import RUN_DIR_VARIABLE, STATE_DIR_VARIABLE

GRACE_SECONDS = 5.0
"""For helpers of a container engine that end a moment after it."""

PREFIX = "pyscsi-init-demo-"
CONTAINERS = ("auto", "docker", "namespaces")
PROGRAMS = {
    "mkfs.ext4": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "blkid": "util-linux",
    "wipefs": "util-linux",
    "busybox": "busybox-static",
}


@click.command(
    epilog="\b\nExample:\n  pyscsi-init demo\n"
    "  pyscsi-init demo --target tgt --containers namespaces"
)
@click.option(
    "--target",
    type=click.Choice(list(SERVERS)),
    default="python",
    show_default=True,
    help="The iSCSI target: the one in Python, or a tgtd of our own.",
)
@click.option(
    "--containers",
    type=click.Choice(CONTAINERS),
    default="auto",
    show_default=True,
    help="What runs the containers: Docker where it can be had, or namespaces.",
)
@common_options
def demo(target: str, containers: str) -> int:
    """The whole path on loopback: target, sessions, file systems, containers, and back to nothing.

    Two LUNs of a target are mounted and bound into containers, which read and write them; the data
    survives the containers and the session. Needs root.
    """
    host = LinuxHost()
    _check(host.capabilities())
    story = Story()
    scenario: Scenario | None = None
    failure: BaseException | None = None
    try:
        with deferred():
            directory = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
            scenario = Scenario(story, host, directory, target=target, containers=containers)
        with _own_environment(directory):
            runner.run(scenario.run)
    except BaseException as error:
        if scenario is None:
            raise
        failure = error
    with deferred():
        left = _left(host, scenario)
        for problem in scenario.problems:
            output.warn(f"on the way back: {problem}")
        for thing in left:
            output.warn(f"left behind: {thing}")
        if not left:
            for each in scenario.directories:
                if each.exists():
                    shutil.rmtree(each)
    if failure is not None:
        raise failure
    if left:
        raise DemoFailed(f"{len(left)} things were left behind; see {directory}")
    if scenario.problems:
        raise DemoFailed("nothing is left, but the way back was not as it must be")
    story.say("nothing is left: no mount, loop device, FUSE connection, session or process")
    output.write(f"demo: ok ({story.elapsed:.1f} s)\n")
    return 0


@contextlib.contextmanager
def _own_environment(directory: Path) -> Iterator[None]:
    """Workers inherit these, and are known by them if one should stay behind."""
    ours = {
        RUN_DIR_VARIABLE: str(directory / "run"),
        STATE_DIR_VARIABLE: str(directory / "state"),
        # It ends with this command, so it may as well end with this command's group.
        process_group.VARIABLE: "off",
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _left(host: LinuxHost, scenario: Scenario) -> list[str]:
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        found = leftovers.fuse_connections(host, scenario.fuse_connections)
        for directory in scenario.directories:
            found += leftovers.of_directory(host, directory)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _check(can: Capabilities) -> None:
    """Raise NotAllowed for what is missing, before anything is begun."""

    def refuse(reason: str, remedy: str) -> NotAllowed:
        return NotAllowed("run the demo", reason, remedy=remedy)

    if not can.is_root:
        raise refuse("it mounts file systems and needs root", "run it as root")
    if not can.has_fuse:
        raise refuse("/dev/fuse is missing", "modprobe fuse, or pass the device in")
    if not can.has_loop:
        raise refuse("/dev/loop-control is missing", "modprobe loop, or pass the devices in")
    missing = [name for name in PROGRAMS if can.programs.get(name) is None]
    if missing:
        packages = " ".join(sorted({PROGRAMS[name] for name in missing}))
        raise refuse(f"missing: {', '.join(missing)}", f"apt-get install {packages}")
