# SPDX-License-Identifier: Apache-2.0
"""Where the processes of a run directory find each other.

A path in a socket address has 108 bytes and a run directory may be longer, so sockets are named
through an open descriptor of their directory; that form is always short.

INVARIANT: nothing but the standard library, because the holder imports this.
"""

from __future__ import annotations

HOLDER_SOCKET = "holder.sock"
LOCK_NAME = "holder.lock"
LOG_NAME = "holder.log"
CONTROL_SOCKET = "control.sock"
VOLUMES = "volumes"
STATE = "state.json"


def through(directory: int, name: str) -> str:
    """The path of ``name`` in the directory that ``directory`` is a descriptor of."""
    return f"/proc/self/fd/{directory}/{name}"


def holder_path(directory: int) -> str:
    """The holder's socket in a run directory."""
    return through(directory, HOLDER_SOCKET)
