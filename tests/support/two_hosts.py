# SPDX-License-Identifier: Apache-2.0
"""Two hosts and a storage server, each in a network namespace of its own, joined by lines.

Each host has its own line to the server, a pair of veth devices, and a line can be cut and mended:
what lies in sockets meanwhile stays there, as it does when a cable is pulled. A server started
inside ``store.entered()`` listens on ADDRESS, which both hosts reach.
"""

from __future__ import annotations

from contextlib import ExitStack

from .closing import Closing
from .netns import NetworkNamespace

ADDRESS = "10.78.0.1"


class Host:
    """A namespace with a line to the server."""

    def __init__(self, name: str, number: int, store: NetworkNamespace) -> None:
        self.name = name
        self.initiator_name = f"iqn.2026-11.example.host:{name}"
        self.namespace = NetworkNamespace(f"host-{name}")
        self._number = number
        self._store = store

    def join(self) -> None:
        """Make the line."""
        inside, net = self.namespace, f"10.78.{self._number}"
        self._far = f"to-{self.name}"
        inside.run(
            "ip", "link", "add", "line", "type", "veth",
            "peer", "name", self._far, "netns", self._store.name,
        )  # fmt: skip
        inside.run("ip", "addr", "add", f"{net}.2/24", "dev", "line")
        inside.run("ip", "link", "set", "line", "up")
        self._store.run("ip", "addr", "add", f"{net}.1/24", "dev", self._far)
        self._store.run("ip", "link", "set", self._far, "up")
        inside.run("ip", "route", "add", ADDRESS, "via", f"{net}.1")

    def cut(self) -> None:
        """From now on nothing gets through, in either direction; nobody is told."""
        self._store.run("ip", "link", "set", self._far, "down")

    def mend(self) -> None:
        """The line is as it was."""
        self._store.run("ip", "link", "set", self._far, "up")
        # A look-up of an address that began meanwhile would fail a moment from now.
        self.namespace.run("ip", "neigh", "flush", "dev", "line")


class TwoHosts(Closing):
    """``with TwoHosts() as hosts:`` makes ``hosts.a``, ``hosts.b`` and ``hosts.store``."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def begin(self) -> None:
        """Make the namespaces and the lines."""
        with ExitStack() as stack:
            self.store = stack.enter_context(NetworkNamespace("store"))
            self.store.run("ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo")
            self.a, self.b = Host("a", 1, self.store), Host("b", 2, self.store)
            for host in (self.a, self.b):
                stack.enter_context(host.namespace)
                host.join()
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Remove them; the lines go with them."""
        self._stack.close()
