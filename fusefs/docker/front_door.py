# SPDX-License-Identifier: Apache-2.0
"""The Docker front door, put together: driver, server, and what is given back for the dead."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import anyio
import anyio.abc

from fusefs.docker.callers import Callers
from fusefs.docker.driver import Driver
from fusefs.docker.engine import DEFAULT_HOST, Engine
from fusefs.docker.reconcile import Reconciler
from fusefs.docker.server import PluginServer
from fusefs.volume.known import KnownVolumes
from fusefs.volume.manager import VolumeManager

log = logging.getLogger("fusefs.docker")


class DockerFrontDoor:
    """Serves the volume plugin protocol on a listening socket."""

    def __init__(
        self,
        manager: VolumeManager,
        listener: socket.socket,
        *,
        run_directory: Path,
        mounts: Path | None = None,
        docker_host: str = DEFAULT_HOST,
    ) -> None:
        """Nothing is begun yet.

        Raises:
            ConfigurationError: ``docker_host`` is not the socket of an engine.
        """
        self._volumes = KnownVolumes(manager, mounts)
        callers = Callers(run_directory / "docker")
        self._reconciler = Reconciler(self._volumes, callers, Engine(docker_host))
        self._driver = Driver(self._volumes, callers)
        self._driver.called = self._reconciler.called
        self._reconciler.release_owed = self._driver.release_owed
        self._server = PluginServer(self._driver.endpoints(), listener)

    def reload(self) -> None:
        """Look for volumes whose containers are gone."""
        self._reconciler.ask()

    async def serve(
        self,
        stop: anyio.Event,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Finish or clear what an earlier process was cut off in, then serve until ``stop``."""
        report = await self._volumes.restore()
        log.info("%s", report)
        self._driver.begin()
        async with anyio.create_task_group() as group:
            group.start_soon(self._reconciler.run)
            await self._server.serve(stop, task_status=task_status)
            group.cancel_scope.cancel()
