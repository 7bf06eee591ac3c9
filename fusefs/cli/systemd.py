# SPDX-License-Identifier: Apache-2.0
"""What systemd says to a service and hears from it: sockets that it opened, and how far we are.

Both are a few environment variables (sd_listen_fds(3), sd_notify(3)), which are taken out of the
environment here, because they are not meant for the processes that we start.
"""

from __future__ import annotations

import contextlib
import os
import socket

UNNAMED = "unknown"
"""What sd_listen_fds_with_names(3) calls a socket without FileDescriptorName."""
_FIRST = 3


def inherited_sockets() -> dict[str, socket.socket]:
    """The sockets that systemd opened for this process, by name; of the same name only the last.

    A second call finds none.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    found = {}
    for index in range(int(count)):
        os.set_inheritable(_FIRST + index, False)
        name = names[index] if index < len(names) and names[index] else UNNAMED
        found[name] = socket.socket(fileno=_FIRST + index)
    return found


def notify(*lines: str) -> None:
    """Tell systemd, where it listens; ``READY=1``, ``STOPPING=1`` and the like."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        sender.sendall("\n".join(lines).encode())
