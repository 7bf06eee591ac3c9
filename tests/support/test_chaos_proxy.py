# SPDX-License-Identifier: Apache-2.0
"""The bad network delivers what was sent, in order, or ends the connection; nothing else."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.chaos_proxy import ChaosProxy, Weather

BAD = Weather(split=0.9, merge=0.5, delay=0.003, stall=0.1, stall_s=0.01)


@contextlib.contextmanager
def echo_once() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets, to one client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                with client:
                    while data := client.recv(65536):
                        client.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        thread.join(10)
        assert not thread.is_alive()


def exchanged(proxy: ChaosProxy, data: bytes) -> bytes:
    """What comes back of ``data``."""
    back = b""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:

        def send() -> None:
            with contextlib.suppress(OSError):
                for start in range(0, len(data), 10_000):
                    client.sendall(data[start : start + 10_000])
                client.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        with contextlib.suppress(ConnectionError):
            while more := client.recv(65536):
                back += more
        thread.join(10)
    return back


@pytest.mark.parametrize("seed", range(3))
def test_bytes_pass_unchanged(seed: int) -> None:
    data = os.urandom(1 << 20)
    with echo_once() as address, ChaosProxy(address, seed, BAD) as proxy:
        assert exchanged(proxy, data) == data
        assert proxy.cuts == 0
        assert {"split", "merged", "stalled"} <= set(proxy.done)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("how", [{"cut": 0.5}, {"cut_bytes": (1, 200_000)}])
def test_what_is_cut_is_a_prefix(seed: int, how: dict[str, object]) -> None:
    data = os.urandom(1 << 20)
    weather = Weather(split=0.5, delay=0.001, **how)  # type: ignore[arg-type]
    with echo_once() as address, ChaosProxy(address, seed, weather) as proxy:
        back = exchanged(proxy, data)
        assert len(back) < len(data)
        assert data.startswith(back)
        assert proxy.cuts == 1
        assert proxy.done["reset"] + proxy.done["closed"] == 1
