# SPDX-License-Identifier: Apache-2.0
"""The holder's socket and who is on it: root alone, packets in, packets out, nobody waited for.

INVARIANT: nothing but the standard library, because the holder imports this.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fusefs.process.loop import Loop
from fusefs.process.packets import BadPacket, Outbox, Packet, peer_of, receive

log = logging.getLogger("fusefs.holder")

MAX_PEERS = 64


class Peer:
    """A command on the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.outbox = Outbox(connection)


class Peers:
    """Listens at ``path``; each packet goes to ``serve``, each peer that leaves to ``left``."""

    def __init__(
        self,
        loop: Loop,
        path: str,
        serve: Callable[[Peer, Packet], None],
        left: Callable[[Peer], None],
    ) -> None:
        self._loop = loop
        self._path = Path(path)
        self._serve = serve
        self._left = left
        self._peers: set[Peer] = set()
        self._uids = frozenset((0, os.geteuid()))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)

    def __len__(self) -> int:
        return len(self._peers)

    def open(self) -> None:
        """Bind and listen. The socket that a dead predecessor left is replaced."""
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen(MAX_PEERS)
        self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Nobody finds us any more; who is here is let go."""
        self._loop.unwatch(self._listener.fileno())
        self._path.unlink(missing_ok=True)
        self._listener.close()
        for peer in list(self._peers):
            self._drop(peer)

    def answer(self, peer: Peer, result: Mapping[str, Any]) -> None:
        """Say that it was done, and what came of it."""
        self.send(peer, {"ok": True, "result": dict(result)})

    def refuse(self, peer: Peer, why: str) -> None:
        """Say that it was not done."""
        self.send(peer, {"ok": False, "error": why})

    def send(self, peer: Peer, values: Mapping[str, Any]) -> None:
        """Send, should the peer still be there."""
        if peer not in self._peers:
            return
        try:
            peer.outbox.put(values)
        except OSError:
            self._drop(peer)
        else:
            self._watch(peer)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._peers) >= MAX_PEERS or peer_of(connection)[1] not in self._uids:
            connection.close()
            return
        connection.setblocking(False)
        peer = Peer(connection)
        self._peers.add(peer)
        self._watch(peer)

    def _watch(self, peer: Peer) -> None:
        events = select.EPOLLIN | (select.EPOLLOUT if peer.outbox else 0)
        self._loop.watch(peer.connection.fileno(), lambda: self._heard(peer), events)

    def _heard(self, peer: Peer) -> None:
        try:
            peer.outbox.flush()
            packet = receive(peer.connection)
        except BlockingIOError:
            self._watch(peer)
            return
        except (OSError, BadPacket):
            packet = None
        if packet is None:
            self._drop(peer)
            return
        with contextlib.closing(packet):
            try:
                self._serve(peer, packet)
            except Exception as error:  # told to the peer; the volumes are held on
                log.error("request: %s: %s", type(error).__name__, error)  # noqa: TRY400
                self.refuse(peer, f"{type(error).__name__}: {error}")
        if peer in self._peers:
            self._watch(peer)

    def _drop(self, peer: Peer) -> None:
        if peer in self._peers:
            self._peers.discard(peer)
            self._loop.unwatch(peer.connection.fileno())
            peer.outbox.close()
            peer.connection.close()
            self._left(peer)
