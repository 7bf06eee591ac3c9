# SPDX-License-Identifier: Apache-2.0
"""The client's side of iSNSP over one TCP connection at a time, without the connection.

Owns transaction ids, which request waits for which response, how long and how often; answers the
server's own requests (SCN, ESI), by TCP and by UDP. Bytes and ``now`` go in; bytes, completions,
events and the next deadline come out::

    machine.call(request, completed, now)
    if machine.wants_connection(now): connect, then connected(now) or connection_lost(error, now)
    send data_to_send(now); give what comes to receive_data(data, now)
    at next_deadline(): handle_deadline(now)
    whenever is_connected has become False: close the socket

A request whose connection is lost, whose answer does not come, or whose server is busy is sent
again, ``attempts`` times in all and with growing pauses: every request of an initiator may be
repeated, because it says how things shall be. What is refused is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import ConnectionLost, DiscoveryTimeout, IscsiError, ProtocolError
from .attributes import Attribute, decode_attributes
from .messages import Request, Response, StateChange, answer, parse_scn
from .pdu import RESPONSE, Function, Message, MessageReader
from .status import (
    BUSY,
    MESSAGE_FORMAT_ERROR,
    MESSAGE_NOT_SUPPORTED,
    SUCCESSFUL,
    error_of,
)

REMEMBERED_NOTIFICATIONS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class IsnsSettings:
    """How patient a client is; seconds."""

    connect_timeout: float = 5.0
    """For one TCP connection to the server."""
    request_timeout: float = 10.0
    """For one response; then the connection is given up and the request sent on a new one."""
    attempts: int = 3
    """How often a request is sent, or a connection for it tried, before it fails."""
    retry_delay: float = 0.5
    """Before the second attempt; doubled for each later one."""


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The server told of changes; none are named where what it sent could not be read."""

    changes: tuple[StateChange, ...]


@dataclass(frozen=True, slots=True)
class EntityStatusInquired:
    """The server asked whether we are there, and was answered."""


Event = StateChanged | EntityStatusInquired


class Call:
    """One request on its way to a response."""

    __slots__ = (
        "_completed",
        "attempts",
        "deadline",
        "error",
        "not_before",
        "request",
        "response",
        "transaction_id",
    )

    def __init__(self, request: Request, completed: Callable[[], None], now: float) -> None:
        self.request = request
        self.response: Response | None = None
        self.error: IscsiError | None = None
        self.transaction_id: int | None = None
        self.attempts = 0
        self.not_before = now
        self.deadline: float | None = None
        self._completed = completed

    @property
    def is_done(self) -> bool:
        """There is a response or an error."""
        return self.response is not None or self.error is not None

    def finish(self, response: Response | None, error: IscsiError | None) -> None:
        """Set the outcome and tell."""
        self.response, self.error = response, error
        self._completed()


class IsnsMachine:
    """See the module's description.

    ``name`` is our iSCSI name, ``server`` is for texts, ``transaction_id`` is the first one.
    """

    def __init__(
        self, settings: IsnsSettings, *, name: str, server: str, transaction_id: int = 1
    ) -> None:
        self.settings = settings
        self.name = name
        self.is_connected = False
        self._server = server
        self._transaction_id = transaction_id - 1
        self._waiting: list[Call] = []
        self._sent: dict[int, Call] = {}
        self._answers: list[bytes] = []
        self._events: deque[Event] = deque()
        self._reader = MessageReader()
        self._datagrams = MessageReader()
        self._seen: deque[tuple[int, int, bytes]] = deque(maxlen=REMEMBERED_NOTIFICATIONS)

    # -- requests -------------------------------------------------------------------------------

    def call(self, request: Request, completed: Callable[[], None], now: float) -> Call:
        """Begin a request; ``completed`` is called when it ``is_done``."""
        call = Call(request, completed, now)
        self._waiting.append(call)
        return call

    def cancel(self, call: Call) -> None:
        """Forget a request: whatever is answered to it is ignored."""
        if call in self._waiting:
            self._waiting.remove(call)
        if call.transaction_id is not None:
            self._sent.pop(call.transaction_id, None)

    def wants_connection(self, now: float) -> bool:
        """There is something to send, and no connection to send it on."""
        return not self.is_connected and any(call.not_before <= now for call in self._waiting)

    # -- the connection -------------------------------------------------------------------------

    def connected(self) -> None:
        """There is a new TCP connection."""
        self.is_connected = True
        self._reader = MessageReader()
        self._answers = []

    def connection_lost(self, error: IscsiError, now: float) -> None:
        """The connection ended, or could not be made."""
        self.is_connected = False
        if not self._sent:
            # Nothing was under way: what waits for the connection pays for the attempt.
            calls = [call for call in self._waiting if call.not_before <= now]
        else:
            calls = list(self._sent.values())
        for call in calls:
            self._again(call, error, now)

    def _again(self, call: Call, error: IscsiError, now: float) -> None:
        self.cancel(call)
        if call.deadline is None:
            call.attempts += 1  # it was not sent: the attempt was the one to connect
        call.deadline = None
        if call.attempts >= self.settings.attempts:
            call.finish(None, error)
            return
        call.not_before = now + self.settings.retry_delay * 2 ** (call.attempts - 1)
        self._waiting.append(call)

    def data_to_send(self, now: float) -> bytes:
        """Bytes for the connection; they count as sent."""
        if not self.is_connected:
            return b""
        out = b"".join(self._answers)
        self._answers = []
        for call in [call for call in self._waiting if call.not_before <= now]:
            self._waiting.remove(call)
            call.attempts += 1
            call.deadline = now + self.settings.request_timeout
            # RFC 4171 5.1.5: "If a message is retransmitted, the original TRANSACTION ID value
            # MUST be used."
            if call.transaction_id is None:
                call.transaction_id = self._next_transaction_id()
            self._sent[call.transaction_id] = call
            out += b"".join(call.request.message(call.transaction_id).encode())
        return out

    def _next_transaction_id(self) -> int:
        used = {call.transaction_id for call in self._waiting} | self._sent.keys()
        while True:
            self._transaction_id = self._transaction_id % 0xFFFF + 1
            if self._transaction_id not in used:
                return self._transaction_id

    def receive_data(self, data: bytes, now: float) -> None:
        """Bytes of the connection. Bytes that are no iSNSP end it and what waits on it."""
        try:
            for message in self._reader.feed(data):
                self._receive(message, now)
        except ProtocolError as error:
            self.is_connected = False
            broken = ProtocolError(f"iSNS server {self._server}: {error}")
            for call in list(self._sent.values()):
                self.cancel(call)
                call.finish(None, broken)

    def receive_datagram(self, data: bytes) -> list[bytes]:
        """A datagram that came to the SCN port; gives the datagrams to answer with.

        Bytes that are no iSNSP are a StateChanged without changes: whoever watches looks himself.
        """
        try:
            message = self._datagrams.datagram(data)
        except ProtocolError:
            self._events.append(StateChanged(()))
            return []
        reply = self._server_request(message) if message is not None else None
        return reply.encode() if reply is not None else []

    def _receive(self, message: Message, now: float) -> None:
        if not message.is_response:
            reply = self._server_request(message)
            if reply is not None:
                self._answers += reply.encode()
            return
        call = self._sent.get(message.transaction_id)
        if call is None or call.request.function | RESPONSE != message.function_id:
            return  # the answer to a request that was cancelled
        response = Response.parse(message)
        self.cancel(call)
        if response.status == BUSY:
            self._again(call, error_of(BUSY, call.request.what), now)
        elif response.status != SUCCESSFUL:
            call.finish(None, error_of(response.status, call.request.what))
        else:
            call.finish(response, None)

    # -- requests of the server -----------------------------------------------------------------

    def _server_request(self, message: Message) -> Message | None:
        if message.is_response:
            return None  # nothing of ours went out by UDP
        if message.function_id == Function.SCN:
            return self._state_change(message)
        if message.function_id == Function.ESI:
            try:
                attributes = decode_attributes(message.payload)
            except ProtocolError:
                return answer(message, MESSAGE_FORMAT_ERROR)
            self._events.append(EntityStatusInquired())
            # RFC 4171 5.7.5.13: the attributes of the inquiry, in their order.
            return answer(message, SUCCESSFUL, attributes)
        return answer(message, MESSAGE_NOT_SUPPORTED)

    def _state_change(self, message: Message) -> Message | None:
        key = message.function_id, message.transaction_id, message.payload
        is_repeated = key in self._seen
        try:
            destination, changes = parse_scn(message)
            if destination.text != self.name:
                return None  # of a node that had this port before us
        except ProtocolError:
            self._events.append(StateChanged(()))
            return answer(message, MESSAGE_FORMAT_ERROR)
        if not is_repeated:
            self._seen.append(key)
            self._events.append(StateChanged(tuple(changes)))
        # A repeated one was not answered as far as the server knows.
        return answer(message, SUCCESSFUL, [Attribute(destination.tag, destination.value)])

    def next_event(self) -> Event | None:
        """The oldest event that was not taken yet."""
        return self._events.popleft() if self._events else None

    # -- time -----------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When :meth:`handle_deadline` or :meth:`wants_connection` has something to say."""
        times = [call.not_before for call in self._waiting]
        times += [call.deadline for call in self._sent.values() if call.deadline is not None]
        return min(times, default=None)

    def handle_deadline(self, now: float) -> None:
        """Give up the connection on which an answer is overdue; a no-op before that."""
        late = [c for c in self._sent.values() if c.deadline is not None and c.deadline <= now]
        if not late:
            return
        error = DiscoveryTimeout(
            f"iSNS server {self._server} did not answer within "
            f"{self.settings.request_timeout:g} s; check that it is an iSNS server and not "
            "overloaded"
        )
        # The others were on the same connection, which is of no use any more.
        self.connection_lost(error, now)

    def lost_connection_error(self) -> ConnectionLost:
        """The error for a connection that the server closed."""
        return ConnectionLost(f"iSNS server {self._server} closed the connection")
