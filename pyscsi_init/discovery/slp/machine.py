# SPDX-License-Identifier: Apache-2.0
"""One SLP request from its first datagram to its last reply (RFC 2608 6.3).

Datagrams and ``now`` go in; datagrams, replies and the next deadline come out. A multicast request
is sent again with the list of those who answered, until nobody new does; a unicast one until it is
answered. The waits double, from CONFIG_RETRY on; the transaction id stays.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import DiscoveryTimeout, ProtocolError
from .messages import DA_BUSY_NOW, Reply, Request, parse_reply


@dataclass(frozen=True, slots=True, kw_only=True)
class SlpSettings:
    """The waits of RFC 2608 13, in seconds, and the size of a datagram."""

    retry: float = 2.0
    """CONFIG_RETRY: before a request is sent again for the first time."""
    multicast_max: float = 15.0
    """CONFIG_MC_MAX: how long a multicast request is sent again."""
    unicast_max: float = 15.0
    """CONFIG_RETRY_MAX: how long a unicast request is sent again."""
    mtu: int = 1400
    """Bytes of the largest datagram that is sent."""


class SlpRequest:
    """One request; ``is_done`` when nothing more is to be sent or waited for."""

    def __init__(
        self, request: Request, xid: int, settings: SlpSettings, now: float, *, multicast: bool
    ) -> None:
        self.request = request
        self.xid = xid
        self.is_done = False
        self.error: DiscoveryTimeout | None = None
        self.replies: dict[str, Reply] = {}
        """By the address of the responder, in the order in which they came."""
        self._multicast = multicast
        self._settings = settings
        self._wait = settings.retry
        self._end = now + (settings.multicast_max if multicast else settings.unicast_max)
        self._deadline = now
        self._told = 0
        """How many responders the list of the last datagram had."""
        self._due = True

    def data_to_send(self, now: float) -> bytes | None:
        """The datagram that is due, if one is; it counts as sent."""
        if self.is_done or not self._due:
            return None
        self._due = False
        responders = list(self.replies) if self._multicast else []
        data = self.request.encode(self.xid, responders, multicast=self._multicast)
        if self._multicast and responders and len(data) > self._settings.mtu:
            # RFC 2608 6.3: "or the previous responder list and the request will not fit into a
            # single datagram"
            self.is_done = True
            return None
        self._told = len(responders)
        self._deadline = min(now + self._wait, self._end)
        self._wait *= 2
        return data

    def receive_datagram(self, data: bytes, source: str) -> None:
        """A datagram from ``source``; what is no reply to this request is ignored.

        Raises:
            ProtocolError: a reply to a unicast request that cannot be read.
        """
        try:
            reply = parse_reply(data)
        except ProtocolError:
            if self._multicast or data[10:12] != self.xid.to_bytes(2, "big"):
                return
            raise
        if self.is_done or reply is None or reply.xid != self.xid:
            return
        if self._multicast:
            if not reply.error:
                self.replies.setdefault(source, reply)
        elif reply.error != DA_BUSY_NOW:
            self.replies[source] = reply
            self.is_done = True

    def next_deadline(self) -> float | None:
        """When :meth:`handle_deadline` has something to do."""
        return None if self.is_done or self._due else self._deadline

    def handle_deadline(self, now: float) -> None:
        """Send again, or be done; a no-op before the deadline."""
        if self.is_done or self._due or now < self._deadline:
            return
        converged = self._multicast and bool(self.replies) and len(self.replies) == self._told
        if not converged and now < self._end:
            self._due = True
            return
        self.is_done = True
        if not self._multicast:
            self.error = DiscoveryTimeout(
                f"no SLP agent answered {self.request.what} within "
                f"{self._settings.unicast_max:g} s; check the address and its UDP port"
            )
