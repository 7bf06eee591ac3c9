# SPDX-License-Identifier: Apache-2.0
"""Packets: whole or not at all, with their descriptors, and nobody waits for a peer."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from fusefs.process import packets
from fusefs.process.packets import BadPacket, Outbox, Packet

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (one, other):
        end.setblocking(False)
    yield one, other
    one.close()
    other.close()


def test_values_payload_and_descriptors_arrive_together(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    values = {"request": "start", "descriptors": ["first", "second"]}
    data = packets.encode(values, b"a secret\nof two lines")
    packets.send_with_descriptors(pair[0], data, [read_end, write_end])
    packet = packets.receive(pair[1])
    assert packet is not None
    assert (packet.values, packet.payload) == (values, b"a secret\nof two lines")
    assert "secret" not in repr(packet)
    second = packet.take("second")
    os.write(second, b"x")
    assert os.read(read_end, 9) == b"x"
    assert packet.take("second") == packet.take("third") == -1
    assert os.get_inheritable(second) is False
    first = packet.descriptors[0]
    packet.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(first)
    packets.close_all([read_end, write_end, second])


@pytest.mark.parametrize("data", [b"", b"{", b"[]\n", b"\xff\n", b"[" * 100000 + b"\n"])
def test_nonsense_is_refused_and_what_came_with_it_closed(pair: Pair, data: bytes) -> None:
    if not data:
        pair[0].close()
        assert packets.receive(pair[1]) is None
        return
    read_end, write_end = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    packets.send_with_descriptors(pair[0], data, [read_end, write_end])
    with pytest.raises(BadPacket):
        packets.receive(pair[1])
    assert len(os.listdir("/proc/self/fd")) == before
    packets.close_all([read_end, write_end])


def test_more_descriptors_than_allowed_are_not_kept(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    many = [read_end] * (packets.MAX_DESCRIPTORS + 3)
    packets.send_with_descriptors(pair[0], packets.encode({}), many)
    with pytest.raises(BadPacket):
        packets.receive(pair[1])
    assert len(os.listdir("/proc/self/fd")) == before
    packets.close_all([read_end, write_end])


def test_what_a_peer_does_not_read_waits_and_then_comes_in_order(pair: Pair) -> None:
    outbox = Outbox(pair[0])
    read_end, write_end = os.pipe()
    count = 600
    for number in range(count):
        outbox.put({"number": number, "descriptors": ["pipe"]}, bytes(1000), [write_end])
    assert outbox
    os.close(write_end)
    numbers = []
    while len(numbers) < count:
        packet = packets.receive(pair[1])
        assert packet is not None
        numbers.append(packet.values["number"])
        assert packet.take("pipe") >= 0 or packet.descriptors == []
        packet.close()
        outbox.flush()
    assert numbers == list(range(count))
    assert not outbox
    os.close(read_end)


def test_a_peer_that_never_reads_is_given_up(pair: Pair) -> None:
    outbox = Outbox(pair[0])

    def never_ends() -> None:
        for number in range(2 * packets.MAX_QUEUED):
            outbox.put({"number": number}, bytes(1000))

    with pytest.raises(OSError, match="does not read"):
        never_ends()
    outbox.close()


def test_a_packet_too_long_is_not_made() -> None:
    with pytest.raises(ValueError, match="at most"):
        packets.encode({}, bytes(packets.MAX_PACKET_BYTES))
    assert Packet({}).take("x") == -1
