# SPDX-License-Identifier: Apache-2.0
"""When an SLP request is sent again, to whom it is told that they answered, and when it is over."""

from __future__ import annotations

import pytest

from pyscsi_init.discovery.slp.machine import SlpRequest, SlpSettings
from pyscsi_init.discovery.slp.messages import ServiceRequest
from pyscsi_init.errors import ProtocolError
from tests.pyscsi_init.discovery.slp.scripted import MULTICAST, Asked, service_reply, take

REQUEST = ServiceRequest(service_type="service:iscsi:target")
URL = "service:iscsi:target://192.0.2.1/iqn.2001-04.com.example:disk"
XID = 77


class Bench:
    """A request, its clock, and when it was sent."""

    def __init__(self, *, multicast: bool, mtu: int = 1400) -> None:
        self.now = 1000.0
        self.request = SlpRequest(REQUEST, XID, SlpSettings(mtu=mtu), self.now, multicast=multicast)
        self.sent: list[tuple[float, Asked]] = []
        self.send()

    def send(self) -> None:
        data = self.request.data_to_send(self.now)
        if data is not None:
            self.sent.append((self.now - 1000, take(data)))
            assert self.request.data_to_send(self.now) is None, "once"

    def step(self) -> None:
        deadline = self.request.next_deadline()
        assert deadline is not None
        assert deadline > self.now
        self.now = deadline
        self.request.handle_deadline(self.now)
        self.send()

    def reply(self, source: str, *, xid: int = XID, error: int = 0) -> None:
        self.request.receive_datagram(service_reply(xid, URL, error=error), source)

    def to_the_end(self) -> float:
        while not self.request.is_done:
            self.step()
        assert self.request.next_deadline() is None
        return self.now - 1000

    @property
    def times(self) -> list[float]:
        return [time for time, _ in self.sent]


def test_nobody_answers_a_multicast() -> None:
    """RFC 2608 6.3: first after CONFIG_RETRY, then with doubled waits, for CONFIG_MC_MAX."""
    bench = Bench(multicast=True)
    assert bench.to_the_end() == 15
    assert bench.times == [0, 2, 6, 14]
    assert {asked.xid for _, asked in bench.sent} == {XID}
    assert all(asked.flags == MULTICAST for _, asked in bench.sent)
    assert bench.request.error is None, "a silent network is no error"


def test_who_answered_is_told_until_nobody_new_does() -> None:
    bench = Bench(multicast=True)
    bench.reply("192.0.2.1")
    bench.step()
    bench.reply("192.0.2.2")
    bench.reply("192.0.2.1")
    bench.step()
    assert bench.to_the_end() == 14
    assert bench.times == [0, 2, 6]
    lists = [asked.responders for _, asked in bench.sent]
    assert lists == [[], ["192.0.2.1"], ["192.0.2.1", "192.0.2.2"]]
    assert list(bench.request.replies) == ["192.0.2.1", "192.0.2.2"]


def test_a_list_that_does_not_fit_a_datagram_ends_it() -> None:
    bench = Bench(multicast=True, mtu=100)
    for number in range(10):
        bench.reply(f"192.0.2.{number}")
    assert bench.to_the_end() == 2
    assert len(bench.sent) == 1
    assert len(bench.request.replies) == 10


def test_errors_and_garbage_are_not_heard_in_a_multicast() -> None:
    bench = Bench(multicast=True)
    bench.reply("192.0.2.1", error=4)
    bench.reply("192.0.2.1", xid=XID + 1)
    bench.request.receive_datagram(b"garbage", "192.0.2.1")
    bench.request.receive_datagram(service_reply(XID, URL)[:-1], "192.0.2.1")
    assert bench.request.replies == {}
    bench.reply("192.0.2.1")
    assert list(bench.request.replies) == ["192.0.2.1"]


def test_a_unicast_ends_with_the_first_answer() -> None:
    bench = Bench(multicast=False)
    bench.step()
    bench.reply("192.0.2.1", xid=XID + 1)
    assert not bench.request.is_done
    bench.reply("192.0.2.1", error=4)
    assert bench.request.is_done
    assert bench.request.error is None
    assert bench.times == [0, 2]
    assert all(asked.flags == 0 and asked.responders == [] for _, asked in bench.sent)
    bench.reply("192.0.2.1")
    assert bench.request.replies["192.0.2.1"].error == 4, "the first one"


def test_nobody_answers_a_unicast() -> None:
    bench = Bench(multicast=False)
    assert bench.to_the_end() == 15
    assert bench.times == [0, 2, 6, 14]
    assert "within 15 s" in str(bench.request.error)


def test_a_busy_directory_agent_is_asked_again() -> None:
    bench = Bench(multicast=False)
    bench.reply("192.0.2.1", error=11)
    assert not bench.request.is_done
    bench.step()
    bench.reply("192.0.2.1")
    assert bench.request.is_done
    assert bench.request.replies["192.0.2.1"].error == 0


def test_an_answer_that_cannot_be_read() -> None:
    bench = Bench(multicast=False)
    bench.request.receive_datagram(b"garbage", "192.0.2.1")
    with pytest.raises(ProtocolError):
        bench.request.receive_datagram(service_reply(XID, URL)[:-1], "192.0.2.1")
