# SPDX-License-Identifier: Apache-2.0
"""The connector has the face of os-brick's: held against its own base class."""

from __future__ import annotations

import inspect
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from fusefs.cinder import connector as ours
from fusefs.cinder import os_brick_tables
from fusefs.cinder.connector import IscsiConnector
from fusefs.errors import NotAllowed
from pyscsi_init.names import check_iscsi_name
from tests.fusefs.cinder.os_brick_face import InitiatorConnector, ISCSIConnector, factory
from tests.fusefs.cinder.test_connection import SINGLE

PUBLIC = sorted(
    name
    for name, thing in inspect.getmembers(InitiatorConnector, callable)
    if not name.startswith("_") and thing.__module__.startswith("os_brick.initiator")
)


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in found]


def test_the_names_that_are_compared() -> None:
    assert set(InitiatorConnector.__abstractmethods__) <= set(PUBLIC)
    assert len(PUBLIC) >= 10


@pytest.mark.parametrize("name", PUBLIC)
def test_each_method_takes_the_same(name: str) -> None:
    assert parameters(getattr(IscsiConnector, name)) == parameters(
        getattr(InitiatorConnector, name)
    )


def test_it_is_made_with_the_same() -> None:
    """Each argument by its name, as factories give them."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    taken = {name: None for name, kind, _ in parameters(ISCSIConnector) if kind not in kinds}
    assert {"root_helper", "use_multipath", "device_scan_attempts", "transport"} <= set(taken)
    assert IscsiConnector(**(taken | {"use_multipath": True})).use_multipath
    assert IscsiConnector("sudo", None, None, 5).device_scan_attempts == 5


def test_the_function_takes_the_same() -> None:
    assert parameters(ours.get_connector_properties) == parameters(factory.get_connector_properties)


def test_it_stands_beside_the_base_class() -> None:
    class Connector(IscsiConnector, InitiatorConnector):  # type: ignore[misc]
        """As a program would have it that asks for the type."""

    made = Connector("sudo", use_multipath=True)
    assert isinstance(made, InitiatorConnector)
    assert Connector.__abstractmethods__ == frozenset()
    made.set_execute(lambda *_: ("", ""))
    made.set_root_helper("other")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """os-brick's, and its own again at the end; others than iSCSI ask programs of this host."""
    for name in [name for name in vars(factory) if name.startswith("_connector_mapping_")]:
        monkeypatch.setattr(factory, name, dict(vars(factory)[name]))
    asked = [f"os_brick.initiator.connectors.{name}" for name in ("base.BaseLinuxConnector",)]
    monkeypatch.setattr(factory, "unix_connector_list", [*asked, os_brick_tables.THEIRS])


@pytest.mark.usefixtures("tables")
def test_the_factory_makes_it() -> None:
    made = factory.InitiatorConnector.factory("ISCSI", "sudo", use_multipath=True)
    assert isinstance(made, ISCSIConnector)
    for _ in range(2):
        os_brick_tables.replace_in_os_brick()
        for arch in (None, "x86_64", "aarch64", "s390x", "ppc64le"):
            made = factory.InitiatorConnector.factory(
                "ISCSI", "sudo", use_multipath=True, arch=arch
            )
            assert isinstance(made, IscsiConnector)
            assert made.use_multipath


@pytest.mark.usefixtures("tables")
def test_os_brick_tells_our_initiator_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no open-iscsi on this host, whose file it would read."""
    monkeypatch.setenv("PYSCSI_INIT_STATE_DIR", str(tmp_path))
    os_brick_tables.replace_in_os_brick()
    arguments = ("sudo", "192.0.2.1", True, False, "node7")
    theirs = factory.get_connector_properties(*arguments)
    assert theirs == ours.get_connector_properties(*arguments)


@pytest.mark.usefixtures("tables")
def test_tables_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "unix_connector_list", [])
    with pytest.raises(NotAllowed, match="this version of os-brick has other tables"):
        os_brick_tables.replace_in_os_brick()
    monkeypatch.setitem(sys.modules, "os_brick.initiator.connector", None)
    with pytest.raises(NotAllowed, match="is missing"):
        os_brick_tables.replace_in_os_brick()


def test_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSCSI_INIT_STATE_DIR", str(tmp_path))
    found = ours.get_connector_properties("sudo", "192.0.2.1", True, True, host="node7")
    assert check_iscsi_name(found["initiator"])
    assert (found["ip"], found["host"], found["multipath"]) == ("192.0.2.1", "node7", True)
    assert found["enforce_multipath"] is True
    assert (found["platform"], found["os_type"]) == (os.uname().machine, "linux")
    again = ours.get_connector_properties(None, "192.0.2.1", False, False)
    assert again["initiator"] == found["initiator"]
    assert (again["host"], again["multipath"]) == (socket.gethostname(), False)


def test_a_valid_device(tmp_path: Path) -> None:
    file = tmp_path / "file"
    connector = IscsiConnector()
    assert not connector.check_valid_device(str(file))
    file.touch()
    assert not connector.check_valid_device(str(file))
    file.write_bytes(b"x")
    assert connector.check_valid_device(str(file), run_as_root=False)
    assert not connector.check_valid_device(str(tmp_path))


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    connector = IscsiConnector()
    for call in (
        lambda: connector.connect_volume(SINGLE),
        lambda: connector.disconnect_volume(SINGLE, None),
        lambda: connector.extend_volume(SINGLE),
        lambda: connector.get_volume_paths(SINGLE),
        connector.get_all_available_volumes,
    ):
        with pytest.raises(NotAllowed, match="it needs root; give a root_helper"):
            call()
