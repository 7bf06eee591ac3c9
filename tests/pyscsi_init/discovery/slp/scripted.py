# SPDX-License-Identifier: Apache-2.0
"""SLP agents that a test plays: bytes written here by hand, from RFC 2608's figures alone.

``Agent`` is a service agent or a directory agent in a thread of its own: it joins the multicast
group, answers by UDP, and by TCP where it is asked to. Its sockets lie in the network namespace in
which it is started.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

GROUP, PORT = "239.255.255.253", 427
SRV_RQST, SRV_RPLY, ATTR_RQST, ATTR_RPLY, DA_ADVERT = 1, 2, 6, 7, 8
OVERFLOW, FRESH, MULTICAST = 0x8000, 0x4000, 0x2000
TARGET, DIRECTORY = "service:iscsi:target", "service:directory-agent"


def string(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def message(
    function: int, body: bytes, xid: int, *, flags: int = 0, version: int = 2, language: str = "en"
) -> bytes:
    tail = struct.pack(">H", flags) + bytes(3) + struct.pack(">H", xid) + string(language) + body
    return bytes((version, function)) + (5 + len(tail)).to_bytes(3, "big") + tail


def entry(url: str, *, auths: int = 0) -> bytes:
    block = struct.pack(">HH", 2, 12) + bytes(8)
    return bytes(1) + struct.pack(">H", 1800) + string(url) + bytes((auths,)) + block * auths


def service_reply(xid: int, *urls: str, error: int = 0, flags: int = 0, auths: int = 0) -> bytes:
    body = struct.pack(">HH", error, len(urls)) + b"".join(entry(u, auths=auths) for u in urls)
    return message(SRV_RPLY, body, xid, flags=flags)


def attribute_reply(xid: int, text: str, *, error: int = 0) -> bytes:
    return message(ATTR_RPLY, struct.pack(">H", error) + string(text) + b"\0", xid)


def advert(xid: int, host: str, scopes: str = "DEFAULT", *, error: int = 0) -> bytes:
    body = struct.pack(">HI", error, 1) + string(f"{DIRECTORY}://{host}")
    return message(DA_ADVERT, body + string(scopes) + string("") + string("") + b"\0", xid)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, taken apart by hand."""

    function: int
    flags: int
    xid: int
    language: str
    fields: list[str]
    """Previous responders, then what is asked for, scopes, predicate or tags, SPI."""
    source: str
    by: str
    """``multicast``, ``udp`` or ``tcp``; the first is told by the flag."""

    @property
    def responders(self) -> list[str]:
        return self.fields[0].split(",") if self.fields[0] else []


def take(data: bytes, source: str = "", by: str = "udp") -> Asked:
    """Read a request; whatever is left over or out of place fails."""
    assert data[0] == 2
    assert int.from_bytes(data[2:5], "big") == len(data)
    flags, xid = struct.unpack(">H", data[5:7])[0], struct.unpack(">H", data[10:12])[0]
    assert data[7:10] == bytes(3)
    at = 12
    texts = []
    while at < len(data):
        (length,) = struct.unpack_from(">H", data, at)
        texts.append(data[at + 2 : at + 2 + length].decode())
        at += 2 + length
    assert at == len(data)
    assert len(texts) == 6
    if flags & MULTICAST:
        by = "multicast"
    return Asked(data[1], flags, xid, texts[0], texts[1:], source, by)


Answer = Callable[[Asked], bytes | None]


@dataclass
class Agent:
    """``with Agent(address, answer):`` in the right namespace. ``answer`` runs in its thread."""

    address: str
    answer: Answer
    asked: list[Asked] = field(default_factory=list)
    port: int = PORT

    def __enter__(self) -> Agent:
        self._stack = contextlib.ExitStack()
        try:
            udp = self._bound(socket.SOCK_DGRAM, self.address)
            group = self._bound(socket.SOCK_DGRAM, GROUP)
            joined = socket.inet_aton(GROUP) + socket.inet_aton(self.address)
            group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
            tcp = self._bound(socket.SOCK_STREAM, self.address)
            tcp.listen()
            quit_reader, self._quit = socket.socketpair()
            self._stack.enter_context(quit_reader)
            self._stack.enter_context(self._quit)
        except BaseException:
            self._stack.close()
            raise
        self._thread = threading.Thread(target=self._serve, args=(udp, group, tcp, quit_reader))
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._quit.send(b"x")
        self._thread.join()
        self._stack.close()

    def _bound(self, kind: socket.SocketKind, address: str) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(socket.AF_INET, kind))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, self.port))
        return sock

    def _serve(
        self, udp: socket.socket, group: socket.socket, tcp: socket.socket, end: socket.socket
    ) -> None:
        while True:
            ready, _, _ = select.select([udp, group, tcp, end], [], [])
            if end in ready:
                return
            for sock in ready:
                if sock is tcp:
                    self._by_tcp(tcp)
                else:
                    data, source = sock.recvfrom(65536)
                    reply = self._reply(take(data, source[0]))
                    if reply is not None:
                        udp.sendto(reply, source)

    def _by_tcp(self, tcp: socket.socket) -> None:
        connection, source = tcp.accept()
        with connection:
            connection.settimeout(5)
            data = connection.recv(65536)
            reply = self._reply(take(data, source[0], "tcp"))
            if reply is not None:
                connection.sendall(reply)

    def _reply(self, asked: Asked) -> bytes | None:
        if self.address in asked.responders:
            self.asked.append(asked)
            return None
        self.asked.append(asked)
        return self.answer(asked)


def services(*urls: str, tag: str | None = None, overflow: bool = False) -> Answer:
    """An agent that has these targets; with ``overflow`` they fit no datagram."""

    def answer(asked: Asked) -> bytes | None:
        if asked.function == SRV_RQST and asked.fields[1].lower() == TARGET:
            if overflow and asked.by != "tcp":
                return service_reply(asked.xid, *urls, flags=OVERFLOW)[:60]
            return service_reply(asked.xid, *urls)
        if asked.function == ATTR_RQST:
            return attribute_reply(asked.xid, f"(portal-group={tag})" if tag else "")
        return None

    return answer


def directory(host: str, *urls: str, scopes: str = "DEFAULT") -> Answer:
    """A directory agent that knows these targets; what is multicast it answers by its advert."""
    known = services(*urls)

    def answer(asked: Asked) -> bytes | None:
        if asked.function == SRV_RQST and asked.fields[1] == DIRECTORY:
            return advert(asked.xid, host, scopes)
        return None if asked.by == "multicast" else known(asked)

    return answer
