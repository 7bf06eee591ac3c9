# SPDX-License-Identifier: Apache-2.0
"""What a Docker Engine says of its containers: one question to its API, and nothing is changed.

Only its Unix socket is asked: what an engine on another host mounts is none of ours.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import anyio.to_thread

from fusefs.errors import VolumeError
from pyscsi_init.errors import ConfigurationError

DEFAULT_HOST = "unix:///var/run/docker.sock"
ASK_SECONDS = 20.0
"""An engine that has a thousand containers, or has just been started, takes a while."""

HOLDING = frozenset(("running", "paused", "restarting", "removing"))
"""States of a container whose volumes are mounted. One that is created or has exited has none, and
one that is being started is known by the process that starts it, which is alive."""


class EngineSilent(VolumeError):
    """The engine cannot be asked, or its answer cannot be read: nothing is known."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ASK_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ASK_SECONDS)
        self.sock.connect(self._path)


class Engine:
    """A Docker Engine at ``unix://PATH``."""

    def __init__(self, host: str = DEFAULT_HOST) -> None:
        """Nothing is asked yet.

        Raises:
            ConfigurationError: it is not the address of a Unix socket.
        """
        scheme, _, path = host.partition("://")
        if scheme != "unix" or not path.startswith("/"):
            raise ConfigurationError(
                "--docker-host",
                host,
                "is not the Unix socket of an engine on this host",
                f"write it as {DEFAULT_HOST}",
            )
        self._path = path

    @property
    def is_there(self) -> bool:
        """Whether there is such a socket at all."""
        return Path(self._path).is_socket()

    async def volumes_in_use(self) -> frozenset[str]:
        """The names of the volumes of all containers that run, of whatever driver.

        Raises:
            EngineSilent: nothing is known.
        """
        return _volumes(await anyio.to_thread.run_sync(self._containers, abandon_on_cancel=True))

    def _containers(self) -> Any:
        connection = _UnixConnection(self._path)
        try:
            connection.request("GET", "/containers/json?all=1")
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != http.HTTPStatus.OK:
                raise EngineSilent(f"the engine at {self._path} answers {answer.status}")
            return json.loads(text)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise EngineSilent(f"the engine at {self._path} cannot be asked: {error}") from error
        finally:
            connection.close()


def _volumes(containers: Any) -> frozenset[str]:
    try:
        return frozenset(
            str(mount["Name"])
            for container in containers
            if container["State"] in HOLDING
            for mount in container["Mounts"]
            if mount.get("Type") == "volume"
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise EngineSilent(f"the engine's list of containers cannot be read: {error!r}") from error
