# SPDX-License-Identifier: Apache-2.0
"""An SLPv2 user agent that looks for iSCSI targets (RFC 4018), on asyncio or trio.

Moves the datagrams of :class:`.machine.SlpRequest` and, where a reply did not fit one, asks by TCP.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Sequence

import anyio

from ...errors import (
    ConnectError,
    ConnectionLost,
    DiscoveryError,
    DiscoveryTimeout,
    InvalidUrl,
    IscsiError,
    SlpRejected,
)
from ...names import Portal
from ...transport.network import OWN, Network
from ...transport.sockets import connect
from ..datagrams import Datagrams, open_datagrams
from ..targets import DiscoveredTarget
from .machine import SlpRequest, SlpSettings
from .messages import (
    DEFAULT_SCOPE,
    ERRORS,
    LENGTH_BYTES,
    AttributeReply,
    AttributeRequest,
    DaAdvert,
    Reply,
    Request,
    ServiceReply,
    ServiceRequest,
    message_length,
    parse_reply,
)
from .urls import (
    DIRECTORY_AGENT_TYPE,
    PORTAL_GROUP,
    TARGET_TYPE,
    parse_agent_url,
    parse_target_url,
    portal_group_tag,
)

log = logging.getLogger("pyscsi_init.discovery")

SLP_PORT = 427
MULTICAST_GROUP = "239.255.255.253"
"""RFC 2608 6.1: where all agents listen."""
MULTICAST_TTL = 255
MAX_ATTRIBUTE_REQUESTS = 64
"""For more targets than this nobody is asked one by one for its portal group."""
_ATTRIBUTE_REQUESTS_AT_ONCE = 8


class UserAgent:
    """One UDP socket, and the requests that wait for replies on it."""

    def __init__(
        self, datagrams: Datagrams, port: int, settings: SlpSettings, network: Network = OWN
    ) -> None:
        self._datagrams = datagrams
        self._network = network
        self._port = port
        self._settings = settings
        self._xid = secrets.randbelow(0x10000)
        self._requests: dict[int, tuple[SlpRequest, anyio.Event]] = {}
        self._failures: dict[int, Exception] = {}

    async def receive(self) -> None:
        """Give each datagram to the request that it is for; runs as long as the agent."""
        while True:
            data, (source, _) = await self._datagrams.receive()
            for request, news in list(self._requests.values()):
                try:
                    request.receive_datagram(data, source)
                except IscsiError as error:
                    self._failures[request.xid] = error
                news.set()

    async def converge(self, request: ServiceRequest) -> list[tuple[str, Reply]]:
        """Multicast a request until nobody new answers: who answered, and what.

        A reply that did not fit its datagram is asked for again by TCP.

        Raises:
            ConnectError: nothing can be multicast from here.
        """
        done = await self._drive(request, MULTICAST_GROUP, multicast=True)
        found: list[tuple[str, Reply]] = []
        for source, reply in done.replies.items():
            whole = reply
            if reply.overflow:
                try:
                    whole = await self.ask_by_tcp(source, request)
                except (IscsiError, OSError) as error:
                    log.info("SLP agent %s has more to say, but not by TCP: %s", source, error)
            found.append((source, whole))
        return found

    async def ask(self, host: str, request: Request, settings: SlpSettings | None = None) -> Reply:
        """Ask one agent.

        Raises:
            DiscoveryTimeout: no answer.
            SlpRejected: an error code.
            ConnectError, ConnectionLost: the answer is to be had by TCP only, and there is none.
            ProtocolError: an answer that cannot be read.
        """
        done = await self._drive(request, host, multicast=False, settings=settings)
        if done.error is not None:
            raise done.error
        reply = next(iter(done.replies.values()))
        if reply.overflow and not reply.error:
            reply = await self.ask_by_tcp(host, request)
        if reply.error:
            name, remedy = ERRORS.get(reply.error, ("unknown", "look at the agent's log"))
            raise SlpRejected(
                f"SLP agent {host} refused {request.what}: error {reply.error} ({name}); {remedy}",
                code=reply.error,
            )
        return reply

    async def _drive(
        self,
        request: Request,
        host: str,
        *,
        multicast: bool,
        settings: SlpSettings | None = None,
    ) -> SlpRequest:
        xid = self._next_xid()
        now = anyio.current_time()
        machine = SlpRequest(request, xid, settings or self._settings, now, multicast=multicast)
        try:
            while not machine.is_done:
                now = anyio.current_time()
                news = anyio.Event()
                self._requests[xid] = machine, news
                machine.handle_deadline(now)
                data = machine.data_to_send(now)
                if data is not None:
                    await self._datagrams.send(data, (host, self._port))
                deadline = machine.next_deadline()
                if deadline is not None:
                    with anyio.move_on_after(max(0.0, deadline - now)):
                        await news.wait()
                if xid in self._failures:
                    raise self._failures.pop(xid)
        finally:
            del self._requests[xid]
        return machine

    def _next_xid(self) -> int:
        while True:
            self._xid = (self._xid + 1) & 0xFFFF
            if self._xid not in self._requests:
                return self._xid

    async def ask_by_tcp(self, host: str, request: Request) -> Reply:
        """Ask one agent by TCP (RFC 2608 6.2). Raises as :meth:`ask`."""
        limit = self._settings.unicast_max
        xid = self._next_xid()
        where = Portal(host, self._port)
        try:
            sock = await connect(where, limit, network=self._network)
        except ConnectError as error:
            raise ConnectError(
                f"SLP agent {where}: {error}", portal=error.portal, reason=error.reason
            ) from error
        with sock, anyio.move_on_after(limit):
            await _send_all(sock, request.encode(xid, (), multicast=False))
            head = await _receive_exactly(sock, LENGTH_BYTES)
            rest = await _receive_exactly(sock, message_length(head) - LENGTH_BYTES)
            reply = parse_reply(head + rest)
            if reply is None or reply.xid != xid:
                raise DiscoveryError(f"SLP agent {host} answered something else by TCP")
            return reply
        raise DiscoveryTimeout(f"SLP agent {host} did not answer by TCP within {limit:g} s")


async def _send_all(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        await anyio.wait_writable(sock)
        view = view[sock.send(view) :]


async def _receive_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        await anyio.wait_readable(sock)
        try:
            part = sock.recv(min(count - len(data), 1 << 16))
        except ConnectionError:
            part = b""
        if not part:
            raise ConnectionLost("the SLP agent closed the connection before its answer was whole")
        data += part
    return bytes(data)


@contextlib.asynccontextmanager
async def open_agent(
    host: str, port: int, settings: SlpSettings, interface: str | None, network: Network
) -> AsyncIterator[UserAgent]:
    """A user agent whose socket has the family of ``host``."""
    any_address = "::" if ":" in host else "0.0.0.0"  # noqa: S104  (replies come from anywhere)
    async with open_datagrams(interface or any_address, network=network) as datagrams:
        if host == MULTICAST_GROUP:
            sock = datagrams.socket
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, MULTICAST_TTL)
            if interface is not None:
                packed = socket.inet_aton(interface)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, packed)
        agent = UserAgent(datagrams, port, settings, network)
        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.receive)
            try:
                yield agent
            except BaseException as error:
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def discover_slp(
    host: str | None = None,
    *,
    scopes: Sequence[str] = (DEFAULT_SCOPE,),
    predicate: str = "",
    interface: str | None = None,
    port: int = SLP_PORT,
    settings: SlpSettings | None = None,
    network: Network = OWN,
) -> list[DiscoveredTarget]:
    """Look for iSCSI targets by SLP.

    With ``host`` that agent is asked alone. Without, service agents and directory agents are looked
    for by multicast at the same time, and the directory agents of our scopes are asked too. It
    takes CONFIG_MC_MAX seconds (15), because a silent network can only be waited for.

    Args:
        scopes: where to look (RFC 2608 11).
        predicate: a filter such as ``(auth-name=iqn.2001-04.com.example:host)`` (RFC 4018 5.2).
        interface: the IPv4 address of this host from which to multicast; by default the kernel's
            choice.
        network: where it is asked.

    Raises:
        ConnectError: nothing can be sent, or the host does not resolve.
        DiscoveryTimeout, SlpRejected, ProtocolError: ``host`` did not answer, or not so. Of many
            agents a bad one is passed over.

    Cancellation: nothing stays behind.
    """
    settings = settings or SlpSettings()
    request = ServiceRequest(service_type=TARGET_TYPE, scopes=tuple(scopes), predicate=predicate)
    address = MULTICAST_GROUP if host is None else await _resolve(host, port, network)
    async with open_agent(address, port, settings, interface, network) as agent:
        if host is not None:
            replies = [(address, await agent.ask(address, request))]
        else:
            replies = await _everywhere(agent, request)
        return await _targets(agent, replies, request.scopes, settings)


async def _resolve(host: str, port: int, network: Network) -> str:
    try:
        found = await network.resolve(host, port, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise ConnectError(
            f"SLP agent {host}: the host name does not resolve ({error})",
            portal=host,
            reason="unresolved",
        ) from error
    return str(found[0][4][0])


async def _everywhere(agent: UserAgent, request: ServiceRequest) -> list[tuple[str, Reply]]:
    """What all service agents and all directory agents of our scopes say."""
    found: list[tuple[str, Reply]] = []
    errors: list[ConnectError] = []

    async def services() -> None:
        try:
            found.extend(await agent.converge(request))
        except ConnectError as error:
            errors.append(error)

    async def directories() -> None:
        looking = ServiceRequest(service_type=DIRECTORY_AGENT_TYPE, scopes=request.scopes)
        with contextlib.suppress(ConnectError):
            for _, advert in await agent.converge(looking):
                if isinstance(advert, DaAdvert) and _serves(advert, request.scopes):
                    tasks.start_soon(directory, advert)

    async def directory(advert: DaAdvert) -> None:
        try:
            where = parse_agent_url(advert.url)
            found.append((where, await agent.ask(where, request)))
        except IscsiError as error:
            log.info("SLP directory agent %s is passed over: %s", advert.url, error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(services)
        tasks.start_soon(directories)
    if errors and not found:
        raise errors[0]
    return found


def _serves(advert: DaAdvert, scopes: Iterable[str]) -> bool:
    # RFC 2608 11.1: scopes are compared without regard to case.
    theirs = {scope.lower() for scope in advert.scopes}
    return any(scope.lower() in theirs for scope in scopes)


async def _targets(
    agent: UserAgent,
    replies: Iterable[tuple[str, Reply]],
    scopes: tuple[str, ...],
    settings: SlpSettings,
) -> list[DiscoveredTarget]:
    urls: dict[str, str] = {}
    for source, reply in replies:
        if isinstance(reply, ServiceReply):
            for url in reply.urls:
                urls.setdefault(url, source)
    tags = await _portal_groups(agent, urls, scopes, settings)
    found: dict[str, list[Portal]] = {}
    for url in urls:
        try:
            target = parse_target_url(url)
        except InvalidUrl as error:
            log.info("an SLP agent told of a URL that cannot be read: %s", error)
            continue
        portals = found.setdefault(target.name, [])
        portal = Portal(target.portal.host, target.portal.port, tags.get(url))
        if portal not in portals:
            portals.append(portal)
    return [DiscoveredTarget(name, tuple(portals)) for name, portals in found.items()]


async def _portal_groups(
    agent: UserAgent, urls: dict[str, str], scopes: tuple[str, ...], settings: SlpSettings
) -> dict[str, int]:
    """The portal group tags of URLs, as far as their agents tell them without being begged."""
    tags: dict[str, int] = {}
    if len(urls) > MAX_ATTRIBUTE_REQUESTS:
        return tags
    short = SlpSettings(retry=settings.retry, unicast_max=settings.retry * 2)
    limiter = anyio.CapacityLimiter(_ATTRIBUTE_REQUESTS_AT_ONCE)

    async def ask(url: str, source: str) -> None:
        request = AttributeRequest(url=url, scopes=scopes, tags=(PORTAL_GROUP,))
        async with limiter:
            try:
                reply = await agent.ask(source, request, short)
            except IscsiError as error:
                log.info("SLP agent %s does not tell %s: %s", source, request.what, error)
                return
        tag = portal_group_tag(reply.attributes) if isinstance(reply, AttributeReply) else None
        if tag is not None:
            tags[url] = tag

    async with anyio.create_task_group() as tasks:
        for url, source in urls.items():
            tasks.start_soon(ask, url, source)
    return tags
