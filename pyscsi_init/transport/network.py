# SPDX-License-Identifier: Apache-2.0
"""The network that sockets are made in: this process's own, a namespace by name, an interface.

A socket stays for its life in the network namespace that the thread was in which made it. So it is
enough that ``socket()`` is called inside, and names are looked up there; connecting, binding and
the data path are as everywhere.

INVARIANT: no thread of the caller, and none of a pool, ever leaves its own network. What must be
done inside is done by a thread that was started for it, goes in, and ends there: there is no way
back that could fail. (tests/pyscsi_init/transport/test_network.py)

A namespace is opened anew each time, because one that is removed and made again under its name is
another one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ..errors import ConfigurationError, ConnectError
from ..settings import Settings

T = TypeVar("T")
AddressInfo = tuple[int, int, int, str, Any]
"""Family, kind, protocol, canonical name, address: as getaddrinfo has it."""

NAMES = "/run/netns"
"""Where ip-netns(8), and network plugins after it, keep namespaces that have a name."""

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Network:
    """Where sockets are made; the default is where this process is."""

    namespace: str = ""
    """As the setting ``network_namespace`` has it."""
    interface: str = ""
    """As the setting ``network_interface`` has it."""

    @classmethod
    def of(cls, settings: Settings) -> Network:
        """The network of a session with these settings."""
        return cls(settings.network_namespace, settings.network_interface)

    def named(self) -> dict[str, str]:
        """The settings that name it, as far as they do."""
        both = {"network_namespace": self.namespace, "network_interface": self.interface}
        return {name: value for name, value in both.items() if value}

    def __bool__(self) -> bool:
        """Whether it is any other than this process's own, as routes have it."""
        return bool(self.namespace or self.interface)

    def __str__(self) -> str:
        """In words, for the middle of a sentence; empty for this process's own."""
        words = []
        if self.namespace:
            words.append(f"in network namespace {self.namespace}")
        if self.interface:
            words.append(f"over interface {self.interface}")
        return " ".join(words)

    async def resolve(self, host: str, port: int, kind: int) -> list[AddressInfo]:
        """The addresses of a host, asked for in this network.

        The name servers are those of this process's resolv.conf. (An interface changes nothing:
        the resolver makes sockets of its own.)

        Raises:
            OSError, UnicodeError: it does not resolve.
            ConnectError, ConfigurationError: the network cannot be entered.

        Cancellation: the question may go on in its thread for a while.
        """
        if not self.namespace:
            return list(await anyio.getaddrinfo(host, port, type=kind))

        def look_up() -> list[AddressInfo]:
            # A scope is a number in these: the name of its interface is known inside alone.
            return list(socket.getaddrinfo(host, port, type=kind))

        return await anyio.to_thread.run_sync(self._inside, look_up, abandon_on_cancel=True)

    async def make_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A non-blocking socket in this network, not connected.

        Raises:
            OSError: no socket of this family can be made.
            ConnectError: the namespace or the interface is not there now.
            ConfigurationError: it cannot be used, ever.

        Cancellation: it takes effect afterwards; making a socket waits for nobody.
        """
        if self.namespace:
            make = functools.partial(socket.socket, family, kind, protocol)
            sock = await anyio.to_thread.run_sync(self._inside, make)
        else:
            sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            if self.interface:
                self._bind(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def _bind(self, sock: socket.socket) -> None:
        try:
            # With the zero at its end, as the interface of the system call has it.
            name = self.interface.encode() + b"\0"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
        except OSError as error:
            if error.errno == errno.EPERM:
                raise ConfigurationError(
                    "network_interface",
                    self.interface,
                    "this process may not bind to it",
                    "before Linux 5.7 that needs CAP_NET_RAW",
                ) from error
            where = f"in network namespace {self.namespace}" if self.namespace else "here"
            raise ConnectError(
                f"network_interface {self.interface!r}: there is no such interface {where} "
                f"({error.strerror}); `ip link` lists them",
                reason="no interface",
            ) from error

    def _inside(self, function: Callable[[], T]) -> T:
        """What the function returns when it is called in the namespace. Blocks."""
        outcome: Future[T] = Future()

        def main() -> None:
            try:
                self._enter()
                outcome.set_result(function())
            except BaseException as error:
                outcome.set_exception(error)

        thread = threading.Thread(target=main, name=f"in {self.namespace}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise ConnectError(
                f"no thread can be started to enter network namespace {self.namespace} ({error})",
                reason="no thread",
            ) from error
        return outcome.result()

    def _enter(self) -> None:
        """The calling thread is in the namespace from now on.

        Raises:
            ConnectError: there is none at this moment.
            ConfigurationError: it cannot be entered, ever.
        """
        named = "/" not in self.namespace
        path = f"{NAMES}/{self.namespace}" if named else self.namespace
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                remedy = "run it as root; below /proc/PID it takes CAP_SYS_PTRACE"
                raise self._never(f"may not be opened ({error.strerror})", remedy) from error
            raise self._not_now(f"{path}: {error.strerror}", named) from error
        try:
            kind = CLONE_NEWNET
            with contextlib.suppress(OSError):  # Linux 4.11; without it setns says less
                kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
            if kind != CLONE_NEWNET:
                raise self._never("is a namespace of another kind", "name one of a network")
            if _libc.setns(descriptor, CLONE_NEWNET) == 0:
                return
            code = ctypes.get_errno()
            if code == errno.EPERM:
                raise self._never("this process may not enter it (it lacks CAP_SYS_ADMIN)")
            # ip-netns(8) makes a plain file before, and leaves it after, the namespace on it.
            reason = "is no namespace" if code == errno.EINVAL else os.strerror(code)
            raise self._not_now(f"{path} {reason}", named)
        finally:
            os.close(descriptor)

    def _never(self, reason: str, remedy: str = "run it as root, privileged") -> ConfigurationError:
        return ConfigurationError("network_namespace", self.namespace, reason, remedy)

    def _not_now(self, reason: str, named: bool) -> ConnectError:
        remedy = (
            "`ip netns list` lists them; in a container the host's /run/netns must be mounted, "
            "with propagation from the host"
            if named
            else "does the process live, and is it seen here?"
        )
        return ConnectError(
            f"network_namespace {self.namespace!r}: there is none ({reason}); {remedy}",
            reason="no namespace",
        )


OWN = Network()
"""Where this process is."""
