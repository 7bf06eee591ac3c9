# SPDX-License-Identifier: Apache-2.0
"""Which engine runs the demo's containers, best first.

A Docker Engine that is there serves only if its daemon lives in our mount namespace, for a bind
mount is looked up in the daemon's.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from fusefs.cli.demo.containers import Engine
from fusefs.cli.demo.docker import Docker, PrivateDocker
from fusefs.cli.demo.namespaces import Namespaces
from fusefs.host import Host
from fusefs.host.run import find_program


def shares_our_mounts(path: str) -> bool:
    """Whether the daemon behind a socket lives in our mount namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(2.0)
            connection.connect(path)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid, _, _ = struct.unpack("iII", credentials)
            theirs = Path(f"/proc/{pid}/ns/mnt").readlink()
            return theirs == Path("/proc/self/ns/mnt").readlink()
        except OSError:
            return False


def candidates(choice: str, directory: Path, host: Host) -> list[Engine]:
    """The engines to try, best first."""
    found: list[Engine] = []
    if choice in ("auto", "docker"):
        path = os.environ.get("DOCKER_HOST", "").removeprefix("unix://")
        path = path or host.capabilities().docker_socket or ""
        if path.startswith("/") and find_program("docker") and shares_our_mounts(path):
            found.append(Docker(directory, f"unix://{path}"))
        found.append(PrivateDocker(directory, host))
    if choice in ("auto", "namespaces"):
        found.append(Namespaces(directory, host))
    return found
