# SPDX-License-Identifier: Apache-2.0
"""A tgt in a network namespace of its own: nobody reaches it who is not inside.

Several of them have one and the same address, so what a volume holds tells which network its
session is in.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from .closing import Closing
from .netns import NetworkNamespace
from .tgt import TgtServer

ADDRESS, PORT = "127.0.0.1", 3260
MEBI = 1 << 20


class LonelyTarget(Closing):
    """``with LonelyTarget(name, directory) as target:`` makes namespace, tgt and one disk."""

    def __init__(self, name: str, directory: Path, *, iqn: str, address: str = ADDRESS) -> None:
        """``name`` tells this disk from others by its serial number."""
        self.namespace = NetworkNamespace(name)
        self.iqn = iqn
        self.disk = directory / f"{name}.img"
        self.tgt = TgtServer(address=address, port=PORT)
        self._serial = name
        self._stack = contextlib.ExitStack()

    def begin(self) -> None:
        """Make the namespace, and start tgt in it."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.namespace)
            stack.callback(self.tgt.close)
            self.prepare_network()
            with self.namespace.entered():
                self.tgt.start()
            self.tgt.new_target(self.iqn)
            self.tgt.add_lun(
                1, 1, self.disk, size_bytes=64 * MEBI, params={"scsi_sn": self._serial}
            )
            self._stack = stack.pop_all()

    def prepare_network(self) -> None:
        """The loopback is up, and is all that there is."""

    def close(self) -> None:
        """End tgt, and remove the namespace."""
        self._stack.close()

    @property
    def url(self) -> str:
        """The LUN's."""
        return self.tgt.url(1, 1)

    def restart(self) -> None:
        """SIGKILL the target, and start it again."""
        self.tgt.kill()
        with self.namespace.entered():
            self.tgt.start()

    def go(self) -> None:
        """The target dies, and its namespace goes."""
        self.tgt.kill()
        self.namespace.close()

    def come_back(self) -> None:
        """Another namespace has the name, and the target is in it."""
        self.namespace.make()
        self.prepare_network()
        with self.namespace.entered():
            self.tgt.start()
