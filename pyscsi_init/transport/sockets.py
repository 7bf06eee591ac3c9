# SPDX-License-Identifier: Apache-2.0
"""TCP connections to portals: addresses, deadlines, socket options, and errors a person can
read."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
from collections.abc import Awaitable, Callable

import anyio

from ..errors import ConfigurationError, ConnectError
from ..names import Portal
from ..settings import Settings
from .network import OWN, Network

Connector = Callable[[Portal, float], Awaitable[socket.socket]]
"""What makes a connection to a portal within so many seconds, as :func:`connect` does: a connected,
non-blocking stream socket, or ConnectError. For tunnels, and for tests without a network."""


def connector_of(settings: Settings, given: Connector | None = None) -> Connector:
    """The connector of a session: the one that is ``given``, else plain TCP in the network that the
    settings name.

    Raises:
        ConfigurationError: both, and the given one would not heed the settings.
    """
    network = Network.of(settings)
    if given is None:
        return functools.partial(connect, network=network) if network else connect
    if network:
        raise ConfigurationError(
            "network_namespace" if network.namespace else "network_interface",
            network.namespace or network.interface,
            "says where connections are made, and so does the connector",
            "give one of the two",
        )
    return given


_REMEDIES = {
    errno.ECONNREFUSED: "nothing listens there: check address and port, and that the target runs",
    errno.EHOSTUNREACH: "no route to that host",
    errno.ENETUNREACH: "no route to that network",
    errno.ETIMEDOUT: "no answer: a firewall, a wrong address, or the host is down",
    errno.ECONNRESET: "the other side closed the connection at once",
}


async def connect(portal: Portal, seconds: float, *, network: Network = OWN) -> socket.socket:
    """A connected, non-blocking socket to ``portal``, made in ``network``.

    Names are resolved anew at every call, so a target that moves in the DNS is found again; all
    addresses are tried in order, within ``seconds`` together, of which each gets a fair share.

    Raises:
        ConnectError: no address took the connection in time, or the network is not there.
        ConfigurationError: the network cannot be used, ever.

    Cancellation: no socket is left open.
    """
    where = f"portal {portal} {network}" if network else f"portal {portal}"
    reason = "no answer: a firewall, a wrong address, or the host is down"
    end = anyio.current_time() + seconds
    with anyio.move_on_after(seconds):
        try:
            addresses = await network.resolve(portal.host, portal.port, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectError(
                f"{where}: the host name does not resolve ({error})",
                portal=str(portal),
                reason="unresolved",
            ) from error
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            # An address that swallows everything must leave time for those after it.
            left = len(addresses) - number
            share = (end - anyio.current_time()) / left if left > 1 else None
            try:
                with anyio.fail_after(share):
                    return await _connect_one(network, family, kind, protocol, address)
            except TimeoutError:
                reason = _REMEDIES[errno.ETIMEDOUT]
            except OSError as error:
                code = error.errno or 0
                reason = _REMEDIES.get(code, os.strerror(code) if code else str(error))
        raise ConnectError(f"{where}: {reason}", portal=str(portal), reason=reason)
    raise ConnectError(
        f"{where}: no TCP connection within {seconds:g} s; {reason}",
        portal=str(portal),
        reason="timeout",
    )


async def _connect_one(
    network: Network, family: int, kind: int, protocol: int, address: object
) -> socket.socket:
    sock = await network.make_socket(family, kind, protocol)
    try:
        _set_options(sock)
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)  # type: ignore[arg-type]
        await anyio.wait_writable(sock)
        _check_connected(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_connected(sock: socket.socket) -> None:
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    if sock.getsockname() == sock.getpeername():
        # A connect to a free ephemeral port on this host can meet itself.
        raise OSError(errno.ECONNREFUSED, "connected to itself")


def _set_options(sock: socket.socket) -> None:
    # A PDU must not wait for the acknowledgement of the one before.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Buffer sizes are left to the kernel: setting them switches its autotuning off.
