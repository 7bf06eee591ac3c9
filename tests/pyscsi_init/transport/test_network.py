# SPDX-License-Identifier: Apache-2.0
"""Sessions in a network namespace that is named, or on an interface: a real tgt in each.

Two targets have the same address in two namespaces, so a session in the wrong one reads the wrong
disk; from the network of the test nobody is there.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Settings
from pyscsi_init.errors import ConfigurationError, ConnectError
from pyscsi_init.settings import settings_from_mapping
from pyscsi_init.transport.network import Network
from pyscsi_init.transport.sockets import connect
from tests.support import processes
from tests.support.lonely_target import ADDRESS, PORT, LonelyTarget
from tests.support.netns import NetworkNamespace
from tests.support.requirements import require
from tests.support.source import ROOT
from tests.support.tgt import TgtServer
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.root, pytest.mark.tgt]

IQN = "iqn.2026-11.example:same"
FIRST, SECOND = b"first" * 100 + bytes(12), b"second" * 85 + b"ab"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LonelyTarget]:
    with LonelyTarget("first", tmp_path_factory.mktemp("first"), iqn=IQN) as target:
        with target.disk.open("r+b") as disk:
            disk.write(FIRST)
        yield target


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LonelyTarget]:
    with LonelyTarget("second", tmp_path_factory.mktemp("second"), iqn=IQN) as target:
        with target.disk.open("r+b") as disk:
            disk.write(SECOND)
        yield target


def inside(namespace: str, **more: object) -> Settings:
    return Settings(network_namespace=namespace, recovery_timeout=0, **more)  # type: ignore[arg-type]


def networks_of_this_process() -> set[str]:
    return {os.readlink(f"/proc/self/task/{task}/ns/net") for task in os.listdir("/proc/self/task")}


async def test_one_address_is_two_targets(first: LonelyTarget, second: LonelyTarget) -> None:
    """One session in each network at the same time, and none in that of the test."""
    before = networks_of_this_process()
    assert first.url == second.url
    async with (
        pyscsi_init.open_lun(first.url, settings=inside(first.namespace.name)) as one,
        pyscsi_init.open_lun(second.url, settings=inside(str(second.namespace.path))) as other,
    ):
        assert (await one.read(0, 512), await other.read(0, 512)) == (FIRST, SECOND)
        await one.write(4096, b"1" * 512)
        await other.write(4096, b"2" * 512)
        assert len(first.tgt.sessions()) == len(second.tgt.sessions()) == 1
        assert networks_of_this_process() == before
    for target, digit in ((first, b"1"), (second, b"2")):
        with target.disk.open("rb") as disk:
            disk.seek(4096)
            assert disk.read(512) == digit * 512
    with pytest.raises(ConnectError, match=f"portal {ADDRESS}:{PORT}: nothing listens there"):
        async with pyscsi_init.open_lun(first.url, settings=Settings(recovery_timeout=0)):
            pass


async def test_discovery_asks_in_the_network(first: LonelyTarget) -> None:
    found = await pyscsi_init.discover(ADDRESS, settings=inside(first.namespace.name))
    assert IQN in [target.name for target in found]
    with pytest.raises(ConnectError):
        await pyscsi_init.discover(ADDRESS)


@pytest.mark.one_loop
async def test_a_redirect_is_followed_in_the_network(first: LonelyTarget, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with first.namespace.entered():
            there = stack.enter_context(TgtServer(address="127.0.0.2", port=PORT))
        there.new_target(f"{IQN}-moved")
        there.add_lun(1, 1, tmp_path / "moved", size_bytes=1 << 20)
        sender = first.tgt.new_target(f"{IQN}-moved")
        first.tgt.redirect(sender, "127.0.0.2", PORT)
        settings = inside(first.namespace.name)
        url = f"iscsi://{ADDRESS}/{IQN}-moved/1"
        async with pyscsi_init.open_lun(url, settings=settings) as lun:
            assert str(lun.session.portal).startswith("127.0.0.2:")


@pytest.mark.one_loop
async def test_names_are_looked_up_in_the_network(first: LonelyTarget) -> None:
    """The scope of a link-local address is an interface, which is there or not."""
    here, link = first.namespace, "only-here"
    here.run("ip", "link", "add", link, "type", "veth", "peer", "name", "other-end")
    for each in (link, "other-end"):
        here.run("ip", "link", "set", each, "up")
    here.run("ip", "addr", "add", "fe80::1/64", "dev", link, "nodad")
    listener = here.call(lambda: socket.create_server(("::", 0), family=socket.AF_INET6))
    with listener:
        place = pyscsi_init.Portal(f"fe80::1%{link}", listener.getsockname()[1])
        with await connect(place, 5, network=Network(here.name)) as made:
            assert made.getpeername()[0].startswith("fe80::1")
    with pytest.raises(ConnectError, match="does not resolve"):
        await connect(place, 5)


@pytest.mark.one_loop
async def test_a_namespace_that_comes_back_is_another_one(tmp_path: Path) -> None:
    """I/O waits while there is none of that name, and goes on in the one that is made then."""
    with LonelyTarget("back", tmp_path, iqn=IQN) as target:
        settings = Settings(
            network_namespace=target.namespace.name, recovery_timeout=60, default_time2wait=0
        )
        async with pyscsi_init.open_lun(target.url, settings=settings) as lun:
            await lun.write(0, b"a" * 512)
            session = lun.session
            await anyio.to_thread.run_sync(target.go)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lun.write, 512, b"b" * 512)
                await until(lambda: "there is none" in str(session.last_error))
                await anyio.to_thread.run_sync(target.come_back)
            assert await lun.read(0, 1024) == b"a" * 512 + b"b" * 512
            assert session.statistics.recoveries == 1


# -- an interface -------------------------------------------------------------------------------

RANGE = "10.79.0"


@pytest.fixture(scope="module")
def two_lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkNamespace]:
    """A namespace with interfaces ``left`` and ``right``, and a target with one and the same
    address at the end of each."""
    base = tmp_path_factory.mktemp("lines")
    with (
        NetworkNamespace("node") as node,
        Far("left", base, node) as left,
        Far("right", base, node) as right,
    ):
        for target, content in ((left, FIRST), (right, SECOND)):
            with target.disk.open("r+b") as disk:
                disk.write(content)
        yield node


class Far(LonelyTarget):
    """A target with a line to ``node``."""

    def __init__(self, line: str, directory: Path, node: NetworkNamespace) -> None:
        super().__init__(line, directory, iqn=IQN, address=f"{RANGE}.1")
        self._line, self._node = line, node

    def prepare_network(self) -> None:
        here, node = self.namespace, self._node
        here.run(
            "ip", "link", "add", "far", "type", "veth",
            "peer", "name", self._line, "netns", node.name,
        )  # fmt: skip
        here.run("ip", "addr", "add", f"{RANGE}.1/24", "dev", "far")
        here.run("ip", "link", "set", "far", "up")
        node.run("ip", "addr", "add", f"{RANGE}.2/24", "dev", self._line)
        node.run("ip", "link", "set", self._line, "up")


@pytest.mark.parametrize(("interface", "content"), [("left", FIRST), ("right", SECOND)])
async def test_an_interface_of_a_namespace(
    two_lines: NetworkNamespace, interface: str, content: bytes
) -> None:
    settings = inside(two_lines.name, network_interface=interface)
    url = f"iscsi://{RANGE}.1/{IQN}/1"
    async with pyscsi_init.open_lun(url, settings=settings) as lun:
        assert await lun.read(0, 512) == content


@pytest.mark.parametrize(("interface", "content"), [("left", FIRST), ("right", SECOND)])
def test_an_interface_of_this_network(
    two_lines: NetworkNamespace, interface: str, content: bytes
) -> None:
    async def read() -> bytes:
        settings = Settings(network_interface=interface, recovery_timeout=0)
        async with pyscsi_init.open_lun(f"iscsi://{RANGE}.1/{IQN}/1", settings=settings) as lun:
            return await lun.read(0, 512)

    assert two_lines.call(anyio.run, read) == content


# -- refusals -----------------------------------------------------------------------------------

PLACE = pyscsi_init.Portal(ADDRESS, PORT)


@pytest.mark.one_loop
@pytest.mark.parametrize(
    ("network", "error", "text"),
    [
        (Network("none-such"), ConnectError, r"network_namespace 'none-such': there is none"),
        (Network("/proc/self/ns/mnt"), ConfigurationError, "is a namespace of another kind"),
        (Network(__file__), ConnectError, "is no namespace"),
        (Network("", "none-such"), ConnectError, "no such interface here .*`ip link` lists them"),
    ],
    ids=["namespace", "another-kind", "plain-file", "interface"],
)
async def test_what_is_not_there(network: Network, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await connect(PLACE, 5, network=network)


@pytest.mark.one_loop
async def test_an_interface_that_is_not_in_the_namespace(first: LonelyTarget) -> None:
    text = f"no such interface in network namespace {first.namespace.name}"
    with pytest.raises(ConnectError, match=text):
        await connect(PLACE, 5, network=Network(first.namespace.name, "eth7"))


@pytest.mark.one_loop
async def test_a_connector_of_ones_own_and_a_namespace(first: LonelyTarget) -> None:
    with pytest.raises(ConfigurationError, match="and so does the connector"):
        async with pyscsi_init.open_lun(
            first.url, settings=inside(first.namespace.name), connector=connect
        ):
            pass


@pytest.mark.one_loop
async def test_without_the_capability(first: LonelyTarget) -> None:
    """Root without CAP_SYS_ADMIN: it says so at once, and does not try again."""
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [
                require("setpriv"), "--bounding-set=-sys_admin", "--inh-caps=-sys_admin",
                sys.executable, "-m", "fusefs.cli", "discover", ADDRESS,
                "--set", f"network_namespace={first.namespace.name}",
            ],
            capture_output=True, text=True, cwd=ROOT, env=processes.environment(), timeout=60,
            check=False,
        )
    )  # fmt: skip
    assert done.returncode != 0
    assert "may not enter it (it lacks CAP_SYS_ADMIN); run it as root, privileged" in done.stderr


@pytest.mark.parametrize("name", ["a/b", ".", "..", "n" * 256, "a\0b", 7])
def test_no_namespace_could_have_this_name(name: object) -> None:
    with pytest.raises(ConfigurationError, match=r"network_namespace .*neither a name nor an"):
        Settings(network_namespace=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a/b", "a b", "a:1", ".", "n" * 16, "a\0", None])
def test_no_interface_could_have_this_name(name: object) -> None:
    with pytest.raises(ConfigurationError, match=r"network_interface.* is not the name of an"):
        Settings(network_interface=name)  # type: ignore[arg-type]


def test_names_stay_text() -> None:
    made = settings_from_mapping({"NetworkNamespace": "42", "network-interface": "7"})
    assert (made.network_namespace, made.network_interface) == ("42", "7")
    assert re.fullmatch("in network namespace 42 over interface 7", str(Network.of(made)))
    assert str(Network()) == ""
