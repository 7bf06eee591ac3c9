# SPDX-License-Identifier: Apache-2.0
"""The client without a socket: transactions, repetitions, deadlines, and the server's requests."""

from __future__ import annotations

import pytest

from pyscsi_init.discovery.isns.machine import (
    Call,
    EntityStatusInquired,
    IsnsMachine,
    IsnsSettings,
    StateChanged,
)
from pyscsi_init.discovery.isns.messages import query_targets
from pyscsi_init.errors import (
    ConnectError,
    ConnectionLost,
    DiscoveryTimeout,
    IsnsBusy,
    IsnsSourceRefused,
    ProtocolError,
)
from tests.pyscsi_init.discovery.isns import scripted
from tests.pyscsi_init.discovery.isns.scripted import (
    D1,
    ME,
    Received,
    pdu,
    response,
    take,
    text,
    tlv,
    u32,
)

SETTINGS = IsnsSettings(request_timeout=10, attempts=3, retry_delay=1)
REFUSED = ConnectError("refused")


class Bench:
    """A machine, its clock, and the requests that it sent."""

    def __init__(self, transaction_id: int = 1) -> None:
        self.machine = IsnsMachine(
            SETTINGS, name=ME, server="192.0.2.9:3205", transaction_id=transaction_id
        )
        self.now = 100.0
        self.completed: list[Call] = []

    def call(self) -> Call:
        calls: list[Call] = []
        call = self.machine.call(
            query_targets(ME), lambda: self.completed.append(calls[0]), self.now
        )
        calls.append(call)
        return call

    def connect(self) -> None:
        assert self.machine.wants_connection(self.now)
        self.machine.connected()

    def sent(self) -> list[Received]:
        data = bytearray(self.machine.data_to_send(self.now))
        found = []
        while data:
            request = take(data)
            assert request is not None
            found.append(request)
        return found

    def one(self) -> Received:
        (request,) = self.sent()
        return request

    def feed(self, data: bytes) -> None:
        self.machine.receive_data(data, self.now)

    def at_deadline(self) -> None:
        deadline = self.machine.next_deadline()
        assert deadline is not None
        assert deadline > self.now, "a deadline that does not move away spins"
        self.now = deadline
        self.machine.handle_deadline(self.now)


def test_a_request_and_its_response() -> None:
    bench = Bench()
    call = bench.call()
    bench.connect()
    bench.feed(response(bench.one(), (33, u32(1)), (0, b"")))
    assert bench.completed == [call]
    assert call.error is None
    assert call.response is not None
    assert bench.machine.next_deadline() is None
    assert not bench.machine.wants_connection(bench.now)


def test_requests_in_flight_have_transactions_of_their_own() -> None:
    bench = Bench()
    calls = [bench.call() for _ in range(3)]
    bench.connect()
    requests = bench.sent()
    assert len({each.transaction for each in requests}) == 3
    for request in reversed(requests):
        bench.feed(response(request))
    assert bench.completed == list(reversed(calls))


def test_transaction_ids_in_use_are_left_out_after_the_wrap() -> None:
    bench = Bench(transaction_id=0xFFFE)
    for _ in range(6):
        bench.call()
    bench.connect()
    assert [each.transaction for each in bench.sent()] == [0xFFFE, 0xFFFF, 1, 2, 3, 4]
    bench.machine = Bench(transaction_id=0xFFFF).machine
    bench.call()
    bench.connect()
    bench.sent()
    used = []
    for _ in range(3):
        bench.call()
        request = bench.one()
        used.append(request.transaction)
        bench.feed(response(request))
    assert used == [1, 2, 3]


@pytest.mark.parametrize("wrong", ["transaction", "function"])
def test_a_response_to_something_else_is_ignored(wrong: str) -> None:
    bench = Bench()
    call = bench.call()
    bench.connect()
    request = bench.one()
    if wrong == "transaction":
        bench.feed(pdu(0x8002, u32(0), transaction=request.transaction + 1))
    else:
        bench.feed(pdu(0x8001, u32(0), transaction=request.transaction))
    assert not call.is_done
    bench.feed(response(request))
    assert call.response is not None


def test_a_cancelled_request() -> None:
    bench = Bench()
    call = bench.call()
    bench.connect()
    request = bench.one()
    bench.machine.cancel(call)
    bench.feed(response(request))
    assert not call.is_done
    assert bench.machine.next_deadline() is None


def test_a_refusal_is_not_repeated() -> None:
    bench = Bench()
    call = bench.call()
    bench.connect()
    bench.feed(response(bench.one(), status=6))
    assert isinstance(call.error, IsnsSourceRefused)
    assert bench.sent() == []


def test_a_busy_server_is_asked_again_with_growing_pauses() -> None:
    bench = Bench()
    call = bench.call()
    bench.connect()
    times = []
    while not call.is_done:
        times.append(bench.now)
        bench.feed(response(bench.one(), status=12))
        assert bench.sent() == []
        if not call.is_done:
            bench.at_deadline()
    assert isinstance(call.error, IsnsBusy)
    assert times == [100, 101, 103]


@pytest.mark.conformance("TMO-001")
def test_an_answer_that_does_not_come() -> None:
    """The connection is given up, and the request repeated on a new one, as it was."""
    bench = Bench()
    call = bench.call()
    transactions = set()
    for attempt in range(3):
        bench.connect()
        transactions.add(bench.one().transaction)
        begin = bench.now
        bench.at_deadline()
        assert bench.now - begin == SETTINGS.request_timeout
        assert not bench.machine.is_connected
        if attempt < 2:
            assert not bench.machine.wants_connection(bench.now)
            bench.at_deadline()
    assert len(transactions) == 1
    assert isinstance(call.error, DiscoveryTimeout)
    assert "192.0.2.9:3205" in str(call.error)
    assert bench.machine.next_deadline() is None


def test_a_late_answer_counts_until_the_connection_is_given_up() -> None:
    bench = Bench()
    call = bench.call()
    bench.connect()
    request = bench.one()
    bench.now += SETTINGS.request_timeout - 0.001
    bench.machine.handle_deadline(bench.now)
    bench.feed(response(request))
    assert call.response is not None


def test_a_lost_connection() -> None:
    bench = Bench()
    call = bench.call()
    bench.connect()
    before = bench.one()
    bench.machine.connection_lost(ConnectionLost("closed"), bench.now)
    bench.at_deadline()
    bench.connect()
    after = bench.one()
    assert after == before, "RFC 4171 5.1.5: the same transaction id"
    bench.feed(response(after))
    assert call.response is not None


def test_a_server_that_cannot_be_reached() -> None:
    bench = Bench()
    call = bench.call()
    tries = 0
    while not call.is_done:
        assert bench.machine.wants_connection(bench.now)
        bench.machine.connection_lost(REFUSED, bench.now)
        tries += 1
        if not call.is_done:
            bench.at_deadline()
    assert tries == SETTINGS.attempts
    assert call.error is REFUSED


def test_a_connection_that_is_lost_and_does_not_come_back() -> None:
    """Attempts to connect count too, or a request would wait for ever."""
    bench = Bench()
    call = bench.call()
    bench.connect()
    bench.sent()
    bench.machine.connection_lost(ConnectionLost("closed"), bench.now)
    for _ in range(2):
        assert not call.is_done
        bench.at_deadline()
        bench.machine.connection_lost(REFUSED, bench.now)
    assert call.error is REFUSED


def test_an_idle_connection_that_ends() -> None:
    bench = Bench()
    bench.call()
    bench.connect()
    bench.feed(response(bench.one()))
    bench.machine.connection_lost(ConnectionLost("closed"), bench.now)
    assert not bench.machine.wants_connection(bench.now)
    later = bench.call()
    bench.connect()
    bench.feed(response(bench.one()))
    assert later.response is not None


def test_a_server_that_is_none() -> None:
    bench = Bench()
    call = bench.call()
    bench.connect()
    bench.sent()
    bench.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert isinstance(call.error, ProtocolError)
    assert "192.0.2.9:3205" in str(call.error)
    assert not bench.machine.is_connected


def test_an_answer_in_parts() -> None:
    bench = Bench()
    call = bench.call()
    bench.connect()
    request = bench.one()
    body = u32(0) + tlv(33, u32(1)) + tlv(0) + tlv(32, text(D1))
    for part in scripted.in_parts(0x8002, body, request.transaction, 4):
        assert not call.is_done
        bench.feed(part)
    assert call.response is not None
    assert call.response.attributes[-1].text == D1


# -- requests of the server --------------------------------------------------------------------


def answered(data: bytes) -> Received:
    received = take(bytearray(data))
    assert received is not None
    return received


@pytest.mark.parametrize("way", ["tcp", "udp"])
def test_notifications_are_answered(way: str) -> None:
    bench = Bench()
    bench.call()
    bench.connect()
    bench.sent()
    notification = scripted.scn((0x48, D1), transaction=4711)
    for time in range(3):
        if way == "tcp":
            bench.feed(notification)
            reply = bench.one()
        else:
            (data,) = bench.machine.receive_datagram(notification)
            reply = answered(data)
        assert (reply.function, reply.transaction) == (0x8008, 4711)
        assert reply.payload == u32(0) + tlv(32, text(ME))
        event = bench.machine.next_event()
        if time == 0:
            assert isinstance(event, StateChanged)
            assert [change.name for change in event.changes] == [D1]
        else:
            assert event is None, "a repeated one is answered again and told once"


def test_another_notification_of_the_same_transaction_id_is_another_one() -> None:
    machine = Bench().machine
    machine.receive_datagram(scripted.scn((0x48, D1)))
    machine.receive_datagram(scripted.scn((0x50, D1)))
    assert isinstance(machine.next_event(), StateChanged)
    assert isinstance(machine.next_event(), StateChanged)


def test_a_notification_for_somebody_else_is_not_ours_to_answer() -> None:
    machine = Bench().machine
    assert machine.receive_datagram(scripted.scn((0x48, D1), to="iqn.2026-11.example:two")) == []
    assert machine.next_event() is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage, and enough of it",
        pdu(8, tlv(32, text(ME))),
        pdu(8, tlv(32, text(ME)) + tlv(35, b"\0\0\0\0\0\0\0\0") + tlv(32, text(D1))),
        pdu(8, tlv(35, u32(8)) + tlv(32, text(D1))),
        pdu(8, b"\0\0\0\x20\0\0\0\xff"),
        pdu(8, tlv(32, text(ME)))[:-4],
    ],
)
def test_a_malformed_notification_says_that_something_happened(data: bytes) -> None:
    machine = Bench().machine
    machine.receive_datagram(data)
    event = machine.next_event()
    assert event == StateChanged(())


def test_entity_status_inquiries_are_answered_with_their_attributes() -> None:
    machine = Bench().machine
    body = tlv(4, bytes(8)) + tlv(1, text("me")) + tlv(16, scripted.ip("192.0.2.7"))
    (data,) = machine.receive_datagram(pdu(13, body, transaction=5))
    reply = answered(data)
    assert (reply.function, reply.transaction) == (0x800D, 5)
    assert reply.payload == u32(0) + body
    assert isinstance(machine.next_event(), EntityStatusInquired)
    (data,) = machine.receive_datagram(pdu(13, b"\0\0\0\x01\0\0\0\xff"))
    assert answered(data).payload == u32(2)


def test_other_requests_are_not_supported() -> None:
    machine = Bench().machine
    (data,) = machine.receive_datagram(pdu(9, tlv(32, text(ME))))
    assert answered(data).payload == u32(15)
    assert machine.receive_datagram(pdu(0x8002, u32(0))) == []
