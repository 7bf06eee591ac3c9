# SPDX-License-Identifier: Apache-2.0
"""discover --isns, discover --slp and watch, as a user has them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fusefs.cli import exit_codes
from tests.fusefs.cli.harness import Cli
from tests.pyscsi_init.discovery.slp.scripted import Agent, services
from tests.support.isns import IsnsServer
from tests.support.netns import NetworkNamespace
from tests.support.source import ROOT
from tests.support.tgt import free_port

D1, D2 = "iqn.2026-11.example:disk1", "iqn.2026-11.example:disk2"
ME = "iqn.2026-11.example.host:one"
PATIENCE = 30

both = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture
def isns() -> Iterator[IsnsServer]:
    with IsnsServer() as server:
        server.add_target(D1, "192.0.2.1:3260", alias="Disk one")
        yield server


class Lines:
    """The lines of a command that goes on writing them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self._descriptor = process.stdout.fileno()
        self._data = b""

    def next(self) -> str:
        end = time.monotonic() + PATIENCE
        while b"\n" not in self._data:
            ready, _, _ = select.select([self._descriptor], [], [], end - time.monotonic())
            assert ready, "nothing was written"
            part = os.read(self._descriptor, 65536)
            assert part, self.process.communicate()[1]
            self._data += part
        line, _, self._data = self._data.partition(b"\n")
        return line.decode()

    def json(self) -> Any:
        return json.loads(self.next())


@contextlib.contextmanager
def watching(cli: Cli, *arguments: str, **variables: str) -> Iterator[Lines]:
    process = cli.start("watch", *arguments, "--initiator-name", ME, **variables)
    try:
        yield Lines(process)
    finally:
        process.kill()
        process.communicate()


@both
def test_discover_by_isns(isns: IsnsServer, cli: Cli, backend: str) -> None:
    asked = ("discover", "--isns", isns.address, "--backend", backend, "--initiator-name", ME)
    assert cli(*asked, "--json").json == [
        {"name": D1, "alias": "Disk one", "portals": ["192.0.2.1:3260,1"]}
    ]
    plain = cli(*asked)
    assert plain.status == 0
    assert f"{D1}  192.0.2.1:3260,1" in plain.out
    assert ME not in isns.nodes()


def test_nothing_to_discover(cli: Cli) -> None:
    with IsnsServer(default_domain=False) as isns:
        done = cli("discover", "--isns", isns.address, "--initiator-name", ME)
    assert (done.status, done.out) == (0, "")
    assert isns.address in done.err
    assert "no target" in done.err


def test_an_isns_server_that_is_not_there(cli: Cli) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = cli("discover", "--isns", address, "--initiator-name", ME)
    done.failed(exit_codes.UNREACHABLE, "iSNS server", address, "nothing listens there")
    done = cli("watch", "--isns", address, "--initiator-name", ME)
    done.failed(exit_codes.UNREACHABLE, address)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("192.0.2.1", "--isns", "192.0.2.9"),
        ("--isns", "192.0.2.9", "--slp"),
        ("192.0.2.1", "--slp=192.0.2.9"),
    ],
)
def test_one_way_at_a_time(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli("discover", *arguments).failed(exit_codes.USAGE, "Give one of")


def test_watch_needs_a_server(cli: Cli) -> None:
    cli("watch").failed(exit_codes.USAGE, "--isns")


@both
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_watch_until_a_signal(
    isns: IsnsServer, cli: Cli, backend: str, number: signal.Signals, status: int
) -> None:
    with watching(cli, "--isns", isns.address, "--json", "--backend", backend) as lines:
        first = lines.json()
        assert abs(first.pop("time") - time.time()) < PATIENCE
        assert first == {
            "event": "added", "name": D1, "alias": "Disk one", "portals": ["192.0.2.1:3260,1"],
        }  # fmt: skip
        assert ME in isns.nodes()
        isns.add_target(D2, "192.0.2.2:3260", entity="other")
        come = lines.json()
        assert (come["event"], come["name"]) == ("added", D2)
        isns.remove_target(D2, entity="other")
        gone = lines.json()
        assert (gone["event"], gone["name"]) == ("removed", D2)
        done = cli.stop(lines.process, number)
        assert done.status == status
        assert "Traceback" not in done.err
    assert ME not in isns.nodes()
    assert "Deregistering SCN" in isns.log.read_text()


def test_watch_for_people(isns: IsnsServer, cli: Cli) -> None:
    with watching(cli, "--isns", isns.address, "--interval", "0.2") as lines:
        assert lines.next() == f"+ {D1}  192.0.2.1:3260,1"
        isns.remove_target(D1)
        assert lines.next() == f"- {D1}  192.0.2.1:3260,1"
        isns.kill()
        isns.start()
        isns.add_target(D2, "192.0.2.2:3260")
        assert lines.next() == f"+ {D2}  192.0.2.2:3260,1"
        cli.stop(lines.process, signal.SIGINT)


def test_watch_tells_that_the_server_went_away(isns: IsnsServer, cli: Cli) -> None:
    with watching(cli, "--isns", isns.address, "--interval", "0.2", "--json") as lines:
        assert lines.json()["event"] == "added"
        isns.kill()
        lost = lines.json()
        assert lost["event"] == "server-lost"
        assert isns.address in lost["error"]
        isns.start()
        assert lines.json()["event"] == "server-found"
        assert lines.json()["event"] == "removed"
        cli.stop(lines.process, signal.SIGTERM)


def test_the_reader_of_watch_goes_away(isns: IsnsServer, cli: Cli) -> None:
    """As with ``watch | head -1``: quietly, and deregistered."""
    with watching(cli, "--isns", isns.address) as lines:
        lines.next()
        assert lines.process.stdout is not None
        lines.process.stdout.close()
        lines.process.stdout = None
        isns.add_target(D2, "192.0.2.2:3260", entity="other")
        _, err = lines.process.communicate(timeout=PATIENCE)
        assert lines.process.returncode == exit_codes.BROKEN_PIPE
        assert "Traceback" not in err
    assert ME not in isns.nodes()


# -- SLP ---------------------------------------------------------------------------------------


@pytest.fixture
def network() -> Iterator[NetworkNamespace]:
    with NetworkNamespace("slp") as namespace:
        namespace.run("ip", "link", "add", "lan", "type", "veth", "peer", "name", "far")
        for link in ("lan", "far"):
            namespace.run("ip", "link", "set", link, "up")
        namespace.run("ip", "addr", "add", "10.79.0.1/24", "dev", "lan")
        namespace.run("ip", "route", "add", "239.0.0.0/8", "dev", "lan")
        yield namespace


@pytest.mark.root
def test_discover_by_slp(network: NetworkNamespace, cli: Cli) -> None:
    def discover(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            network.command(sys.executable, "-m", "fusefs.cli", "discover", *arguments),
            capture_output=True, text=True, cwd=ROOT, env=cli.environment,
            timeout=PATIENCE, check=False,
        )  # fmt: skip

    agent = Agent("10.79.0.1", services(f"service:iscsi:target://10.79.0.1/{D1}", tag="5"))
    started = network.call(agent.__enter__)
    try:
        expected = [{"name": D1, "alias": "", "portals": ["10.79.0.1:3260,5"]}]
        everybody = discover("--slp", "--slp-wait", "2", "--json")
        assert json.loads(everybody.stdout) == expected, everybody
        one = discover("--slp", "10.79.0.1", "--scope", "storage", "--json")
        assert json.loads(one.stdout) == expected, one
        assert agent.asked[-2].fields[2] == "storage"
        there = ("--set", f"network_namespace={network.name}")
        outside = cli("discover", "--slp", "--slp-wait", "1", "--json", *there)
        assert (outside.status, outside.json) == (0, expected), outside
    finally:
        started.__exit__(None, None, None)
    nobody = discover("--slp", "--slp-wait", "0.3")
    assert (nobody.returncode, nobody.stdout) == (0, "")
    assert "no target" in nobody.stderr
    silent = discover("--slp", "10.79.0.1", "--slp-wait", "0.3", "--json")
    assert silent.returncode == exit_codes.TIMEOUT
    assert json.loads(silent.stdout)["error"]["class"] == "DiscoveryTimeout"
