# SPDX-License-Identifier: Apache-2.0
"""The SLP user agent on real sockets: multicast, unicast and TCP inside a network namespace.

The namespace has two hosts' worth of addresses on one interface that takes multicast; the agents
that answer are played by threads.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from pyscsi_init.discovery import DiscoveredTarget
from pyscsi_init.discovery.slp import SlpSettings, discover_slp
from pyscsi_init.errors import ConnectError, DiscoveryTimeout, ProtocolError, SlpRejected
from pyscsi_init.names import Portal
from tests.pyscsi_init.discovery.slp import scripted
from tests.pyscsi_init.discovery.slp.scripted import (
    ATTR_RQST,
    GROUP,
    SRV_RQST,
    Agent,
    Asked,
    directory,
    service_reply,
    services,
)
from tests.support.netns import NetworkNamespace

pytestmark = pytest.mark.root

HERE, FIRST, SECOND, THIRD = "10.78.0.1", "10.78.0.11", "10.78.0.12", "10.78.0.13"
D1, D2, D3 = (f"iqn.2026-11.example:disk{number}" for number in (1, 2, 3))
QUICK = SlpSettings(retry=0.2, multicast_max=1.5, unicast_max=1.5)

BACKENDS = [
    ("asyncio", {}),
    ("asyncio", {"use_uvloop": True}),
    ("trio", {}),
]


def url(host: str, name: str) -> str:
    return f"service:iscsi:target://{host}:3260/{name}"


@pytest.fixture(scope="module")
def network() -> Iterator[NetworkNamespace]:
    with NetworkNamespace("slp") as namespace:
        namespace.run("ip", "link", "add", "lan", "type", "veth", "peer", "name", "far")
        for link in ("lan", "far"):
            namespace.run("ip", "link", "set", link, "up")
        for address in (HERE, FIRST, SECOND, THIRD):
            namespace.run("ip", "addr", "add", f"{address}/24", "dev", "lan")
        namespace.run("ip", "route", "add", "239.0.0.0/8", "dev", "lan", "src", HERE)
        yield namespace


@pytest.fixture(params=BACKENDS, ids=["asyncio", "uvloop", "trio"])
def discover(
    request: pytest.FixtureRequest, network: NetworkNamespace
) -> Callable[..., list[DiscoveredTarget]]:
    """Run the discovery inside the namespace, on each event loop."""
    backend, options = request.param

    def run(host: str | None = None, **kw: Any) -> list[DiscoveredTarget]:
        kw.setdefault("settings", QUICK)

        async def main() -> list[DiscoveredTarget]:
            before = threading.active_count()
            found = await discover_slp(host, **kw)
            assert threading.active_count() <= before + 1
            return found

        return network.call(lambda: anyio.run(main, backend=backend, backend_options=options))

    return run


def inside(network: NetworkNamespace, *agents: Agent) -> Any:
    """Start agents inside the namespace."""

    @contextlib.contextmanager
    def started() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for agent in agents:
                stack.callback(network.call(agent.__enter__).__exit__, None, None, None)
            yield

    return started()


Discover = Callable[..., list[DiscoveredTarget]]


def test_multicast_finds_every_service_agent(network: NetworkNamespace, discover: Discover) -> None:
    one = Agent(FIRST, services(url(FIRST, D1), url(FIRST, D2), tag="7"))
    two = Agent(SECOND, services(url(SECOND, D1), tag="8"))
    with inside(network, one, two):
        found = discover()
    by_name = {target.name: target.portals for target in found}
    assert set(by_name[D1]) == {Portal(FIRST, 3260, 7), Portal(SECOND, 3260, 8)}
    assert by_name[D2] == (Portal(FIRST, 3260, 7),)
    looked = [a for a in one.asked if a.function == SRV_RQST and "iscsi" in a.fields[1]]
    assert looked[0].by == "multicast"
    assert looked[0].responders == []
    assert {FIRST, SECOND} == set(looked[-1].responders), "told who had answered"
    assert len({asked.xid for asked in looked}) == 1
    assert any(asked.fields[1] == scripted.DIRECTORY for asked in one.asked)
    attributes = [a for a in one.asked if a.function == ATTR_RQST]
    assert {a.fields[1] for a in attributes} == {url(FIRST, D1), url(FIRST, D2)}
    assert {a.by for a in attributes} == {"udp"}


def test_directory_agents_are_found_and_asked(
    network: NetworkNamespace, discover: Discover
) -> None:
    ours = Agent(FIRST, directory(FIRST, url(THIRD, D1), url(THIRD, D2), scopes="other,Default"))
    theirs = Agent(SECOND, directory(SECOND, url(THIRD, D3), scopes="elsewhere"))
    with inside(network, ours, theirs):
        found = discover()
    assert [target.name for target in found] == [D1, D2]
    assert any(asked.by == "udp" and asked.function == SRV_RQST for asked in ours.asked)
    assert not any(asked.by == "udp" for asked in theirs.asked), "of another scope"


def test_what_does_not_fit_a_datagram_comes_by_tcp(
    network: NetworkNamespace, discover: Discover
) -> None:
    names = [f"iqn.2026-11.example:disk-{number:04}" for number in range(300)]
    full = Agent(FIRST, services(*(url(FIRST, name) for name in names), overflow=True))
    with inside(network, full):
        found = discover()
        assert [target.name for target in found] == names
        assert "tcp" in {asked.by for asked in full.asked}
        assert not any(asked.function == ATTR_RQST for asked in full.asked), "too many for that"
        assert discover(FIRST) == found


def test_one_agent_is_asked_alone(network: NetworkNamespace, discover: Discover) -> None:
    one = Agent(FIRST, services(url(FIRST, D1), tag="1"))
    two = Agent(SECOND, services(url(SECOND, D2)))
    with inside(network, one, two):
        found = discover(FIRST, scopes=("storage",), predicate="(auth-name=any)")
    assert found == [DiscoveredTarget(D1, (Portal(FIRST, 3260, 1),))]
    assert one.asked[0].fields == ["", scripted.TARGET, "storage", "(auth-name=any)", ""]
    assert two.asked == []


def test_lost_datagrams_are_sent_again(network: NetworkNamespace, discover: Discover) -> None:
    honest = services(url(FIRST, D1))
    lost: dict[int, int] = {}

    def answer(asked: Asked) -> bytes | None:
        lost[asked.xid] = lost.get(asked.xid, 0) + 1
        return honest(asked) if lost[asked.xid] > 1 else None

    agent = Agent(FIRST, answer)
    with inside(network, agent):
        assert [target.name for target in discover(FIRST)] == [D1]
        first, second = agent.asked[:2]
        assert first == second, "the same request with the same transaction id"
        lost.clear()
        assert [target.name for target in discover()] == [D1]


def test_agents_that_are_wrong(network: NetworkNamespace, discover: Discover) -> None:
    """One that is asked alone says so; of many it is passed over."""
    wrong = Agent(FIRST, lambda asked: service_reply(asked.xid, url(FIRST, D1))[:-1])
    right = Agent(SECOND, services(url(SECOND, D2), "service:iscsi:target://::bad::/x"))
    with inside(network, wrong, right):
        with pytest.raises(ProtocolError):
            discover(FIRST)
        assert [target.name for target in discover()] == [D2]


def test_refusals(network: NetworkNamespace, discover: Discover) -> None:
    agent = Agent(FIRST, lambda asked: service_reply(asked.xid, error=4))
    with inside(network, agent):
        with pytest.raises(SlpRejected, match="SCOPE_NOT_SUPPORTED") as caught:
            discover(FIRST)
        assert caught.value.code == 4


def test_nobody_there(network: NetworkNamespace, discover: Discover) -> None:
    assert discover() == []
    with pytest.raises(DiscoveryTimeout):
        discover(FIRST)
    with pytest.raises(ConnectError, match="does not resolve"):
        discover("nowhere.invalid")
    with pytest.raises(ConnectError, match="cannot be used"):
        discover(interface="10.99.0.1")


def test_the_interface_is_chosen(network: NetworkNamespace, discover: Discover) -> None:
    agent = Agent(FIRST, services(url(FIRST, D1)))
    with inside(network, agent):
        assert discover(interface=SECOND)
    assert {asked.source for asked in agent.asked} == {SECOND}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_network_without_multicast(backend: str) -> None:
    with (
        NetworkNamespace("slp") as bare,
        pytest.raises(ConnectError, match=f"{GROUP} port 427"),
    ):
        bare.call(lambda: anyio.run(lambda: discover_slp(settings=QUICK), backend=backend))
