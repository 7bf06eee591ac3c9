# SPDX-License-Identifier: Apache-2.0
"""serve: the front doors of this node's volumes, each on a socket of its own, until SIGTERM.

A front door is whatever has ``serve(stop)``: it calls ``task_status.started()`` when it takes
calls, and returns in order once ``stop`` is set. None of them owns a volume: the processes of the
data path are not their children, so this command may end, or be killed, at any moment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
import anyio.abc
import click

from fusefs.cli import output
from fusefs.cli.listening import Listener, sole_server
from fusefs.cli.options import common_options
from fusefs.cli.systemd import inherited_sockets, notify
from fusefs.cli.volumes import require_root
from fusefs.docker.engine import DEFAULT_HOST
from fusefs.docker.protocol import DEFAULT_SOCKET
from fusefs.errors import NotAllowed
from fusefs.host import LinuxHost
from fusefs.volume.manager import VolumeManager
from fusefs.volume.paths import Directories
from fusefs.volume.provision import Provisioner

log = logging.getLogger("fusefs.serve")

LOCK_SECONDS = 100.0
"""A call waits so long for another one on the same volume: as long as one may take."""


class FrontDoor(Protocol):
    """One server."""

    async def serve(
        self,
        stop: anyio.Event,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until ``stop`` is set."""

    def reload(self) -> None:
        """SIGHUP: look again at what can be looked at."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for on the command line."""

    docker_socket: str | None
    docker_host: str
    mounts: str | None
    csi: str | None
    node_id: str
    controller: bool | None
    """Of the two services of CSI only that of the controller, or only the node's; None for both."""


@click.command(
    epilog="\b\nExample:\n"
    "  pyscsi-init serve --docker\n"
    "  docker volume create -d pyscsi-init -o portal=192.0.2.7 -o target=iqn.2026-01.org.example:d"
    " -o lun=1 data"
)
@click.option(
    "--docker",
    "docker_socket",
    is_flag=False,
    flag_value=DEFAULT_SOCKET,
    metavar="[SOCKET]",
    help=f"Serve Docker's and Podman's volume plugin protocol [default: {DEFAULT_SOCKET}].",
)
@click.option(
    "--docker-host",
    metavar="unix://SOCKET",
    default=DEFAULT_HOST,
    show_default=True,
    help="The engine that is asked which containers still run, after it was restarted.",
)
@click.option(
    "--mounts",
    metavar="DIR",
    help="Where volumes are mounted [default: mounts in the state directory].",
)
@click.option("--csi", metavar="unix://SOCKET", help="Serve the Container Storage Interface.")
@click.option(
    "--node-id",
    default=lambda: os.uname().nodename,
    show_default="the host's name",
    help="What the orchestrator calls this node.",
)
@click.option(
    "--controller/--node",
    default=None,
    help="Of CSI only the service that makes volumes, or only the one that mounts them.",
)
@common_options
def serve(
    docker_socket: str | None,
    docker_host: str,
    mounts: str | None,
    csi: str | None,
    node_id: str,
    controller: bool | None,
) -> None:
    """Serve container engines and orchestrators; ends on SIGTERM, volumes stay as they are.

    Uses the sockets of systemd where it passes any. SIGHUP has it look for volumes whose
    containers are gone.
    """
    choice = Choice(docker_socket, docker_host, mounts, csi, node_id, controller)
    given = inherited_sockets()
    if choice.docker_socket is None and choice.csi is None:
        raise click.UsageError("Say what to serve: --docker, --csi.")
    require_root("serve volumes")
    with contextlib.ExitStack() as stack:
        doors = [stack.enter_context(door) for door in _doors(choice, given)]
        anyio.run(_run, doors, backend="asyncio")


def _doors(
    choice: Choice, given: Mapping[str, socket.socket]
) -> Iterator[contextlib.AbstractContextManager[FrontDoor]]:
    """The front doors that were asked for, each not begun yet."""
    if choice.docker_socket is not None:
        yield _docker(choice, choice.docker_socket, given)
    if choice.csi is not None:
        yield _csi(choice, choice.csi)


@contextlib.contextmanager
def _docker(choice: Choice, path: str, given: Mapping[str, socket.socket]) -> Iterator[FrontDoor]:
    from fusefs.docker.front_door import DockerFrontDoor

    run = Directories().run
    with sole_server(run, "docker"), contextlib.closing(Listener("docker", path, given)) as socket_:
        log.info("serving Docker on %s", socket_.path)
        yield DockerFrontDoor(
            VolumeManager(LinuxHost(), lock_timeout_s=LOCK_SECONDS),
            socket_.socket,
            run_directory=run,
            mounts=Path(choice.mounts) if choice.mounts else None,
            docker_host=choice.docker_host,
        )


@contextlib.contextmanager
def _csi(choice: Choice, address: str) -> Iterator[FrontDoor]:
    # Its handlers around fork would only be in the way: nothing here forks without exec.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        from fusefs.csi.server import CsiServer
    except ImportError as error:
        raise NotAllowed(
            "serve CSI",
            f"{error.name} is not installed",
            remedy="pip install 'pyscsi-init[csi]'",
        ) from error

    part = {None: "csi", True: "csi-controller", False: "csi-node"}[choice.controller]
    with sole_server(Directories().run, part):
        door = CsiServer(
            address,
            manager=None if choice.controller else VolumeManager(LinuxHost(), lock_timeout_s=0),
            provisioners=None if choice.controller is False else _provisioners(),
            node_id=choice.node_id,
        )
        log.info("serving CSI on %s as node %s", door.path, choice.node_id)
        yield door


def _provisioners() -> list[Provisioner]:
    from fusefs.volume.pool import PoolProvisioner
    from fusefs.volume.tgt import TgtProvisioner

    directory = Directories().provisioned
    return [PoolProvisioner(directory / "pool"), TgtProvisioner(directory / "tgt")]


async def _run(doors: list[FrontDoor]) -> None:
    stop = anyio.Event()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as group:
            for door in doors:
                await group.start(_serving, door, stop)
            notify("READY=1")
            output.write("ready\n")
            async for number in signals:
                if number == signal.SIGHUP:
                    for door in doors:
                        door.reload()
                    continue
                break
            notify("STOPPING=1")
            stop.set()


async def _serving(
    door: FrontDoor, stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    await door.serve(stop, task_status=task_status)
