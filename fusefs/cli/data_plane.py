# SPDX-License-Identifier: Apache-2.0
"""data-plane: the processes under all volumes as one program, for pods and service managers.

It takes over from the one that runs, says so (ready file, service manager), and stays until it is
told to end. Front doors beside it run with PYSCSI_INIT_DATA_PLANE=external.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import anyio
import click

from fusefs.cli import output, runner
from fusefs.cli.options import common_options
from fusefs.cli.output import Invocation
from fusefs.cli.volumes import require_root
from fusefs.errors import NotAllowed
from fusefs.host import LinuxHost
from fusefs.process.holder_client import DATA_PLANE_VARIABLE, HolderClient, is_external
from fusefs.volume.data_plane import DataPlane, Moved
from fusefs.volume.manager import VolumeManager
from fusefs.volume.paths import Directories
from pyscsi_init.errors import ConfigurationError


@click.command(
    name="data-plane",
    epilog="\b\nExample:\n  pyscsi-init data-plane --ready-file /tmp/ready",
)
@click.option(
    "--ready-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Made when every volume is served from here; removed before.",
)
@common_options
@click.pass_obj
def data_plane(invocation: Invocation, ready_file: Path | None) -> None:
    """Hold all volumes of this node; takes over from the data plane that runs, without an error."""
    require_root("hold the volumes of a node")
    if is_external():
        raise NotAllowed(
            "hold the volumes of a node",
            f"{DATA_PLANE_VARIABLE}=external says that another program does",
            remedy="set that for the front doors alone",
        )
    host = LinuxHost()
    directories = Directories()
    holder = HolderClient(
        directories.run,
        host,
        tended_by=f"data-plane-{os.getpid()}-{uuid.uuid4().hex[:12]}",
        state=directories.state,
    )
    manager = VolumeManager(host, holder=holder)
    plane = DataPlane(manager, output.warn if invocation.verbose else None)
    _forget(ready_file)

    async def run() -> None:
        await anyio.to_thread.run_sync(directories.prepare)
        try:
            moved = await plane.take_over()
            for each in moved:
                _tell(each)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_say_when_ready, plane, moved, ready_file)
                await plane.tend()
                tasks.cancel_scope.cancel()
            output.write("another data plane has taken over; waiting to be told to end\n")
            await anyio.sleep_forever()
        finally:
            await plane.leave()

    try:
        runner.run(run)
    finally:
        _forget(ready_file)


async def _say_when_ready(
    plane: DataPlane, moved: Sequence[Moved], ready_file: Path | None
) -> None:
    await plane.await_the_rest(moved)
    output.write("ready\n")
    if ready_file is not None:
        await anyio.to_thread.run_sync(_announce, ready_file)


def _tell(moved: Moved) -> None:
    if moved.left_behind:
        output.warn(
            f"{moved.name}: stays with the data plane before this one ({moved.problem}); not ready "
            "until the volume has ended, or its worker"
        )
    elif moved.problem:
        output.warn(f"{moved.name}: {moved.problem}")
    elif moved.pause_s is not None:
        output.write(f"{moved.name}: taken over, I/O paused for {moved.pause_s:.3f} s\n")
    else:
        output.write(f"{moved.name}: taken over\n")


def _announce(path: Path) -> None:
    try:
        path.touch(mode=0o644)
    except OSError as error:
        raise ConfigurationError(
            "--ready-file", str(path), f"cannot be made ({error.strerror})", "give another name"
        ) from error


def _forget(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)
