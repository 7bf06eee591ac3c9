# SPDX-License-Identifier: Apache-2.0
"""One TCP connection of the target: bytes in, PDUs to the login or the session, bytes out.

Owns the socket, framing, digests and the count of PDUs on which a fault may cut it. Theory of
operation: the reader takes whatever the socket has, handles every whole PDU, and then sends all
answers with one system call. What the socket does not take is left to the writer task, and while
there is much of it nothing more is read. Everything between two awaits is synchronous, so a PDU is
never torn and answers never mix.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import anyio

from ..errors import ProtocolError
from ..names import Portal
from ..pdu import (
    BytesLike,
    Frame,
    Framer,
    InitiatorOpcode,
    LoginRequest,
    Pdu,
    RejectReason,
    decode_initiator_pdu,
    serialize,
)
from .conditions import Nexus
from .continuation import reinstate
from .faults import Faults
from .login import LoginExchange
from .negotiation import Negotiated
from .session import Session

if TYPE_CHECKING:
    from .server import Listener, TargetServer

LOGIN_DATA_SEGMENT_LENGTH = 8192
MOST_QUEUED = 16 << 20
"""Bytes waiting to be sent beyond which nothing more is read."""
MOST_BUFFERS = 512
"""Per sendmsg; Linux takes 1024."""
READS_PER_TURN = 8
LINGER_SECONDS = 1.0
"""How long a peer may take to close its side after we closed ours."""


class Connection:
    """One connection."""

    def __init__(self, server: TargetServer, listener: Listener, sock: socket.socket) -> None:
        self.server = server
        self.listener = listener
        self.session: Session | None = None
        self.received = 0
        self.sent = 0
        self._socket = sock
        self._framer = Framer(LOGIN_DATA_SEGMENT_LENGTH)
        self._login = LoginExchange(server.place(listener))
        self._header_digest = False
        self._data_digest = False
        self._out: deque[memoryview] = deque()
        self._queued = 0
        self._blocked = False
        self._batching = False
        self._closing = False
        self._gently = False
        self._scope = anyio.CancelScope()
        self._to_write = anyio.Event()
        self._written = anyio.Event()

    @property
    def local_address(self) -> Portal:
        """The address that the peer connected to."""
        host, port = self._socket.getsockname()[:2]
        return Portal(host.split("%")[0], port)

    @property
    def faults(self) -> Faults | None:
        """The faults of the target that this connection is logged in to."""
        return self.session.faults if self.session is not None else None

    async def run(self) -> None:
        """Serve until either side ends it."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write_rest)
                    with contextlib.suppress(OSError):  # a reset by the peer is an end too
                        await self._read()
                    tasks.cancel_scope.cancel()
        finally:
            self._closing = True
            if self.session is not None:
                self.session.connection_lost(self)
            self._socket.close()

    # Ending

    def close(self) -> None:
        """Close at once; what is still to be sent is lost."""
        self._closing = True
        self._out.clear()
        self._scope.cancel()

    def close_gently(self) -> None:
        """Close after everything was sent, and give the peer a moment to close its side."""
        self._gently = True
        if not self._batching:
            self._flush()

    # Sending

    def send(self, pdu: Pdu, *, spoilt: bool = False) -> None:
        """Send one PDU of full feature phase; with ``spoilt`` its data digest is wrong."""
        if self._closing:
            return
        faults = self.faults
        if faults is not None and faults.silent:
            return
        self.sent += 1
        self.server.count_pdu("pdus_sent", pdu.opcode, self)
        buffers = serialize(pdu, self._header_digest, self._data_digest)
        if spoilt and self._data_digest:
            buffers[-1] = bytes(each ^ 1 for each in bytes(buffers[-1]))
        elif faults is not None and (faults.corrupt_header_digests or faults.corrupt_data_digests):
            buffers = self._corrupt(pdu, buffers, faults)
        self._put(buffers)
        limit = faults.drop_after_sent if faults is not None else None
        if faults is not None and limit is not None and self.sent >= limit:
            faults.drop_after_sent = None
            self._flush()
            self.close()

    def _put(self, buffers: list[BytesLike]) -> None:
        for buffer in buffers:
            self._out.append(memoryview(buffer))
            self._queued += len(buffer)
        if not self._batching:
            self._flush()

    def _corrupt(self, pdu: Pdu, buffers: list[BytesLike], faults: Faults) -> list[BytesLike]:
        """Flip one bit of a digest."""
        whole = bytearray(b"".join(bytes(buffer) for buffer in buffers))
        header = 48 + whole[4] * 4
        if faults.corrupt_header_digests and self._header_digest:
            faults.corrupt_header_digests -= 1
            whole[header] ^= 0x01
        elif faults.corrupt_data_digests and self._data_digest and len(pdu.data):
            faults.corrupt_data_digests -= 1
            whole[-1] ^= 0x01
        return [whole]

    def _flush(self) -> None:
        """Send as much as the socket takes now."""
        if self._blocked or self._closing:
            return
        try:
            self._send_some()
        except OSError:
            self.close()
            return
        if self._out:
            self._blocked = True
            self._to_write.set()
        elif self._gently:
            self._shut_down()

    def _send_some(self) -> None:
        out = self._out
        while out:
            try:
                sent = self._socket.sendmsg(islice(out, MOST_BUFFERS))
            except BlockingIOError:
                return
            self._queued -= sent
            while sent:
                first = out[0]
                if len(first) > sent:
                    out[0] = first[sent:]
                    break
                sent -= len(first)
                out.popleft()
            while out and not len(out[0]):
                out.popleft()

    async def _write_rest(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write = anyio.Event()
            while self._out:
                await anyio.wait_writable(self._socket)
                try:
                    self._send_some()
                except OSError:
                    self.close()
                    return
            self._blocked = False
            self._written.set()
            self._written = anyio.Event()
            if self._gently:
                self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
        else:
            self.server.after(LINGER_SECONDS, self.close)

    # Receiving

    async def _read(self) -> None:
        framer, sock = self._framer, self._socket
        while not self._closing:
            if self.listener.silent:
                await anyio.sleep_forever()
            for _ in range(READS_PER_TURN):
                buffer = framer.receive_buffer()
                try:
                    count = sock.recv_into(buffer)
                except BlockingIOError:
                    break
                if not count:
                    return
                framer.bytes_received(count)
                self._batching = True
                try:
                    while not (self._closing or self._gently) and (
                        (frame := framer.next_frame()) is not None
                    ):
                        self._handle(frame)
                except ProtocolError:
                    self.close()
                finally:
                    self._batching = False
                self._flush()
                if self._gently:
                    await self._drain_peer()
                    return
                if self._closing or count < len(buffer):
                    break
            while self._queued > MOST_QUEUED and not self._closing:
                await self._written.wait()
            await anyio.wait_readable(sock)

    async def _drain_peer(self) -> None:
        """After the last PDU: wait for the peer to close, taking and dropping what it sends."""
        while not self._closing:
            await anyio.wait_readable(self._socket)
            try:
                if not self._socket.recv(65536):
                    return
            except BlockingIOError:
                continue

    def _handle(self, frame: Frame) -> None:
        """Act on one PDU."""
        if self.session is None:
            self._login_request(frame)
            return
        self.received += 1
        self.server.count_pdu("pdus_received", frame.opcode, self)
        faults, session = self.session.faults, self.session
        if faults.drop_after_received is not None and self.received >= faults.drop_after_received:
            faults.drop_after_received = None
            self.close()
            return
        header = bytes(frame.header)
        try:
            pdu = decode_initiator_pdu(frame)
        except ProtocolError:
            session.reject_header(header, RejectReason.PROTOCOL_ERROR)
            return
        good = frame.data_digest_ok
        if faults.pdu_rules and (rule := faults.pdu_rule(pdu, sent=False)) is not None:
            if not rule.damages:
                return
            good = False
        session.receive(pdu, header=header, data_digest_ok=good)

    def _login_request(self, frame: Frame) -> None:
        if frame.opcode != InitiatorOpcode.LOGIN_REQUEST:
            # RFC 7143 6.3: anything but a Login Request ends the connection in this phase
            self.close()
            return
        request = decode_initiator_pdu(frame)
        assert isinstance(request, LoginRequest)  # noqa: S101 - the opcode says so
        login = self._login
        response = login.receive(request)
        if login.target is not None and login.target.faults.silent:
            return
        self._put(serialize(response))
        if login.failed is not None:
            self.server.count("failed_logins", login.target)
            self.close_gently()
        elif login.done:
            self._begin(login)

    def _begin(self, login: LoginExchange) -> None:
        """Full feature phase (RFC 7143 4.2.4): digests and lengths hold from the next PDU on."""
        parameters = login.negotiation.result
        nexus = Nexus(
            initiator_name=login.initiator_name,
            isid=login.isid,
            target_name=login.target.name if login.target is not None else "",
            target_portal_group_tag=self.listener.tag,
        )
        if login.reinstates is not None:
            old = login.reinstates.parameters
            parameters = replace(
                old,
                header_digest=parameters.header_digest,
                data_digest=parameters.data_digest,
                initiator_max_recv_data_segment_length=(
                    parameters.initiator_max_recv_data_segment_length
                ),
            )
            self.session = login.reinstates
            self._take_parameters(parameters)
            reinstate(
                login.reinstates,
                self,
                parameters,
                stat_sn=login.stat_sn,
                exp_stat_sn=login.exp_stat_sn,
            )
            return
        self.session = Session(
            self.server,
            self,
            target=login.target,
            nexus=nexus,
            parameters=parameters,
            settings=login.settings,
            tsih=login.tsih,
            cid=login.cid,
            cmd_sn=login.cmd_sn,
            stat_sn=login.stat_sn,
        )
        self._take_parameters(parameters)
        self.server.begin_session(self.session)

    def _take_parameters(self, parameters: Negotiated) -> None:
        self._header_digest = self._framer.header_digest = parameters.header_digest
        self._data_digest = self._framer.data_digest = parameters.data_digest
        self._framer.max_data_segment_length = parameters.max_recv_data_segment_length
