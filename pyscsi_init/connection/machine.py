# SPDX-License-Identifier: Apache-2.0
"""One TCP connection of a session: states, framing, StatSN, digests, and what is still to be sent.

It owns ExpStatSN, CID and the digests, carries the login phase to its end, and keeps the queue of
bytes for the socket. It knows no command and no task: those are the session's. It does no I/O and
reads no clock; whoever owns the socket moves the bytes.

INVARIANT: whole PDUs enter ``outbox`` and its bytes leave in order; ``bytes_sent`` is the only
thing that removes them. A PDU is therefore never torn, whoever is cancelled.
(tests/pyscsi_init/connection/test_machine.py)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from ..errors import ProtocolError
from ..login import LoginMachine, LoginResult
from ..pdu import (
    Frame,
    Framer,
    LoginResponse,
    TargetOpcode,
    decode_target_pdu,
    digest_bytes,
    serialize,
)
from ..serial import serial_lt
from ..settings import Settings
from .keepalive import Keepalive
from .states import LOST, ConnectionState, Transition, next_state

Buffer = bytes | bytearray | memoryview

LOGIN_MAX_RECV_DATA_SEGMENT_LENGTH = 8192
"""RFC 7143 13.12: the default holds during the login phase, whatever is declared in it."""

IOV_MAX = 1024
"""How many buffers one sendmsg(2) takes on Linux."""

MANY_BUFFERS = 128

MAX_REPLIES_QUEUED = 1024
"""Answers to pings that wait for a target that asks but does not read; an honest one has one."""

_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class ConnectionMachine:
    """A connection from the moment TCP is up."""

    def __init__(
        self,
        login: LoginMachine,
        settings: Settings,
        now: float,
        *,
        cid: int = 0,
        exp_stat_sn: int = 0,
    ) -> None:
        self.cid = cid
        self.login = login
        self.settings = settings
        self.state = ConnectionState.S1_FREE
        self.framer = Framer(LOGIN_MAX_RECV_DATA_SEGMENT_LENGTH)
        self.outbox: list[Buffer] = []
        self.buffers_left = 0
        """How many buffers have left since the beginning; see ``queue_mark``."""
        self._replies: deque[int] = deque()
        self.exp_stat_sn = exp_stat_sn
        """In the first Login Request that of the connection whose place this one takes (RFC 7143
        11.12.9)."""
        self.header_digest = False
        self.data_digest = False
        self.keepalive = Keepalive(0, 0, now)
        self.login_deadline = now + settings.login_timeout
        self.logout_deadline: float | None = None
        self._acknowledge_at: float | None = None
        self._acknowledge_mark = 0
        self._stat_sn_known = False
        self._transit(Transition.T1_CONNECT_REQUESTED)
        self._transit(Transition.T4_CONNECTED)
        self._send_login_requests()

    def _transit(self, transition: Transition) -> None:
        self.state = next_state(self.state, transition)

    # -- sending ---------------------------------------------------------------------------------

    def send(self, pdu: Any) -> None:
        """Queue any PDU; ExpStatSN is filled in here, because it belongs to the connection."""
        pdu.exp_stat_sn = self.exp_stat_sn
        self.outbox.extend(serialize(pdu, self.header_digest, self.data_digest))

    def send_raw(self, header: bytes, data: Buffer = b"") -> None:
        """Queue a PDU whose 48-byte header (without AHS) is already encoded: the data path."""
        outbox = self.outbox
        outbox.append(header)
        if self.header_digest:
            outbox.append(digest_bytes(header))
        length = len(data)
        if length:
            outbox.append(data)
            padding = _PADDING[length & 3]
            if padding:
                outbox.append(padding)
            if self.data_digest:
                outbox.append(digest_bytes(data, padding))

    def data_to_send(self) -> Sequence[Buffer]:
        """The buffers to send next, in order; report what the socket took with ``bytes_sent``."""
        outbox = self.outbox
        return outbox if len(outbox) <= IOV_MAX else outbox[:IOV_MAX]

    def bytes_sent(self, count: int) -> bool:
        """``count`` bytes of ``data_to_send`` are with the kernel; whether that was all."""
        outbox = self.outbox
        # Short queues mostly leave whole, and one sum is the quickest way to know; of a long one
        # only what has left is looked at.
        if len(outbox) <= MANY_BUFFERS and count == sum(map(len, outbox)):
            self.buffers_left += len(outbox)
            outbox.clear()
            return True
        whole = 0
        for buffer in outbox:
            length = len(buffer)
            if count < length:
                break
            count -= length
            whole += 1
        del outbox[:whole]
        self.buffers_left += whole
        if count:
            outbox[0] = memoryview(outbox[0])[count:]
        return not outbox

    @property
    def queue_mark(self) -> int:
        """A mark behind everything that is queued now; see ``has_left``."""
        return self.buffers_left + len(self.outbox)

    def has_left(self, mark: int) -> bool:
        """All that was queued before ``mark`` was taken is with the kernel."""
        return self.buffers_left >= mark

    def reply(self, pdu: Any) -> None:
        """Queue the answer to a PDU that a target may send as often as it likes.

        Raises:
            ProtocolError: it sends them and does not read the answers: memory has an end.
        """
        replies = self._replies
        while replies and self.has_left(replies[0]):
            replies.popleft()
        if len(replies) >= MAX_REPLIES_QUEUED:
            raise ProtocolError(f"{len(replies)} pings of the target, and it reads no answer")
        self.send(pdu)
        replies.append(self.queue_mark)

    def release(self, data: memoryview) -> None:
        """Stop referring to the memory of ``data``: its owner wants it back before all is sent.

        What is still queued is sent from a copy, because the header that announces it may be on the
        wire already (RFC 7143 11.4.2 lets a response come before all data is sent).
        """
        owner = data.obj
        for index, buffer in enumerate(self.outbox):
            if isinstance(buffer, memoryview) and buffer.obj is owner:
                self.outbox[index] = bytes(buffer)

    # -- receiving -------------------------------------------------------------------------------

    def receive_buffer(self) -> memoryview:
        """Where the socket may put the next bytes."""
        return self.framer.receive_buffer()

    def bytes_received(self, count: int, now: float) -> None:
        """``count`` bytes are in the receive buffer; now call ``next_frame`` until it is None."""
        self.framer.bytes_received(count)
        self.keepalive.received(now)

    def next_frame(self) -> Frame | None:
        """The next whole PDU.

        Raises:
            ProtocolError: the bytes are no PDU, or longer than was negotiated.
        """
        return self.framer.next_frame()

    def count_stat_sn(self, stat_sn: int) -> bool:
        """Account for a PDU that carries a new StatSN; False if it was seen before (discard it).

        Raises:
            ProtocolError: one or more statuses before it are missing, which error recovery level 0
                answers with session recovery (RFC 7143 7.9, 7.1.4.4).
        """
        if stat_sn == self.exp_stat_sn:
            self.exp_stat_sn = (stat_sn + 1) & 0xFFFFFFFF
            return True
        if serial_lt(stat_sn, self.exp_stat_sn):
            return False
        raise ProtocolError(f"StatSN {stat_sn} where {self.exp_stat_sn} was expected: status lost")

    def check_stat_sn(self, stat_sn: int) -> None:
        """Look at the StatSN of a PDU that does not consume one (an unsolicited NOP-In)."""
        if serial_lt(self.exp_stat_sn, stat_sn):
            raise ProtocolError(
                f"StatSN {stat_sn} where {self.exp_stat_sn} comes next: status lost"
            )

    def acknowledge_later(self, now: float) -> bool:
        """A PDU came that nobody asked for: unless something is sent anyway in time, its StatSN is
        to be acknowledged alone (RFC 7143 11.18). True where that is a new deadline."""
        delay = self.settings.acknowledge_after
        if not delay or self._acknowledge_at is not None:
            return False
        self._acknowledge_at = now + delay
        self._acknowledge_mark = self.queue_mark
        return True

    def must_acknowledge(self, now: float) -> bool:
        """It is time, and nothing was sent that carries a newer ExpStatSN. Asked once."""
        if self._acknowledge_at is None or now < self._acknowledge_at:
            return False
        self._acknowledge_at = None
        return self.queue_mark == self._acknowledge_mark

    # -- the login phase -------------------------------------------------------------------------

    def _send_login_requests(self) -> None:
        for request in self.login.requests():
            self.send(request)

    def login_frame_received(self, frame: Frame) -> LoginResult | None:
        """Take a PDU of the login phase; the result once full feature phase is reached.

        Raises:
            ProtocolError: not a login response, or an illegal one (RFC 7143 4.2.4).
            LoginError: the login ended without success.
        """
        if frame.opcode != TargetOpcode.LOGIN_RESPONSE:
            raise ProtocolError(
                f"opcode {frame.opcode:02x}h in the login phase, where only login responses come"
            )
        response = decode_target_pdu(frame)
        assert isinstance(response, LoginResponse)  # noqa: S101  (for mypy)
        # RFC 7143 11.13.5: with a Status-Class other than 0 the numbers mean nothing.
        if response.status_class == 0:
            if self._stat_sn_known and response.stat_sn != self.exp_stat_sn:
                raise ProtocolError(
                    f"login response with StatSN {response.stat_sn}, {self.exp_stat_sn} comes next"
                )
            self._stat_sn_known = True
            self.exp_stat_sn = (response.stat_sn + 1) & 0xFFFFFFFF
        self.login.receive(response)
        if not self.login.finished:
            self._send_login_requests()
            return None
        result = self.login.result
        parameters = result.parameters
        self._transit(Transition.T5_LOGIN_DONE)
        self.header_digest = self.framer.header_digest = parameters.header_digest
        self.data_digest = self.framer.data_digest = parameters.data_digest
        self.framer.max_data_segment_length = parameters.max_recv_data_segment_length
        return result

    def start_keepalive(self, now: float) -> None:
        """From now on silence is measured. Not called in discovery sessions (RFC 7143 4.3)."""
        self.keepalive = Keepalive(self.settings.noop_interval, self.settings.noop_timeout, now)

    # -- logout and loss -------------------------------------------------------------------------

    def logout_requested(self) -> None:
        """The target asked for a logout (RFC 7143 11.9.1)."""
        self._transit(
            {
                ConnectionState.S5_LOGGED_IN: Transition.T11_LOGOUT_REQUESTED,
                ConnectionState.S7_LOGOUT_REQUESTED: Transition.T12_LOGOUT_REQUESTED_AGAIN,
            }.get(self.state, Transition.T14_LOGOUT_REQUESTED_LATE)
        )

    def logout_sent(self, now: float) -> None:
        """Our logout request is queued: nothing else may follow it."""
        requested = self.state is ConnectionState.S7_LOGOUT_REQUESTED
        self._transit(Transition.T10_LOGOUT_SENT if requested else Transition.T9_LOGOUT_SENT)
        self.logout_deadline = now + self.settings.logout_timeout

    def logout_done(self) -> None:
        """The logout response with success came."""
        self._transit(Transition.T13_LOGOUT_DONE)

    def lost(self, *, recover: bool = False) -> None:
        """The TCP connection is gone, or must go. Idempotent. With ``recover`` the state is
        CLEANUP_WAIT from now on, until ``cleaned_up``."""
        for transition in LOST[self.state]:
            if not (recover and transition is Transition.M1_CLEANED_UP):
                self._transit(transition)
        self.outbox.clear()

    def cleaned_up(self) -> None:
        """Its recovery is over, one way or the other. Idempotent."""
        if self.state is ConnectionState.S8_CLEANUP_WAIT:
            self._transit(Transition.M1_CLEANED_UP)

    @property
    def full_feature(self) -> bool:
        """Commands may be sent."""
        return self.state is ConnectionState.S5_LOGGED_IN

    def next_deadline(self) -> float | None:
        """When ``now`` matters next."""
        if self.state is ConnectionState.S4_IN_LOGIN:
            return self.login_deadline
        if self.state is ConnectionState.S6_IN_LOGOUT:
            return self.logout_deadline
        if self.state in (ConnectionState.S5_LOGGED_IN, ConnectionState.S7_LOGOUT_REQUESTED):
            deadlines = (self.keepalive.deadline(), self._acknowledge_at)
            return min((each for each in deadlines if each is not None), default=None)
        return None

    def __repr__(self) -> str:
        return f"<ConnectionMachine CID={self.cid} {self.state.name} ExpStatSN={self.exp_stat_sn}>"
