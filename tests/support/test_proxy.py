# SPDX-License-Identifier: Apache-2.0
"""The proxy does to a connection what its methods say, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import TO_CLIENT, TcpProxy

BIG = bytes(range(256)) * 4096


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def run() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            clients.append(client)
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)
    for client in clients:
        client.close()


@pytest.fixture
def proxy(echo: tuple[str, int]) -> Iterator[TcpProxy]:
    with TcpProxy(echo) as running:
        yield running


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connected:
        yield connected


def receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def send_quietly(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        client.sendall(data)


def test_bytes_pass_unchanged(proxy: TcpProxy, client: socket.socket) -> None:
    writer = threading.Thread(target=client.sendall, args=(BIG,))
    writer.start()
    assert receive(client, len(BIG)) == BIG
    writer.join()
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert (proxy.connections, proxy.passed[TO_CLIENT]) == (1, len(BIG))


def test_cut_resets(proxy: TcpProxy, client: socket.socket) -> None:
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_cut_with_fin(proxy: TcpProxy, client: socket.socket) -> None:
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.cut(reset=False)
    assert client.recv(1) == b""


@pytest.mark.parametrize("count", [1, 1000, 65537])
def test_cut_after_passes_exactly_so_much(
    proxy: TcpProxy, client: socket.socket, count: int
) -> None:
    proxy.cut_after(count, TO_CLIENT)
    writer = threading.Thread(target=send_quietly, args=(client, BIG[:131072]))
    writer.start()
    with pytest.raises(ConnectionResetError):
        receive(client, len(BIG))
    writer.join()
    assert proxy.passed[TO_CLIENT] == count


def test_stall_keeps_the_connection_and_the_bytes(proxy: TcpProxy, client: socket.socket) -> None:
    client.sendall(b"a")
    assert receive(client, 1) == b"a"
    proxy.stall(TO_CLIENT)
    client.sendall(b"b")
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(5)
    proxy.resume()
    assert receive(client, 1) == b"b"


def test_delay(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.delay(0.05)
    start = time.monotonic()
    client.sendall(b"a")
    assert receive(client, 1) == b"a"
    assert time.monotonic() - start >= 0.1


def test_refuse_and_accept(proxy: TcpProxy, client: socket.socket) -> None:
    client.sendall(b"a")
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    assert receive(client, 1) == b"a"
    proxy.accept()
    socket.create_connection(("127.0.0.1", proxy.port), timeout=5).close()


def test_a_dead_upstream_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with TcpProxy(address) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert proxy.connections == 0
