# SPDX-License-Identifier: Apache-2.0
"""What Cinder's connection_info says, in each of its coats, and what is refused in it."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fusefs.cinder.connection import load_connection, read_connection, volume_name
from fusefs.errors import InvalidSpec

IQN = "iqn.2010-10.org.openstack:volume-1"
ID = "8f5d0b6e-3a2c-4b7e-9f67-000000000001"
PASSWORD = "sixteen-letters!"

SINGLE = {
    "target_discovered": False,
    "target_portal": "192.0.2.7:3260",
    "target_iqn": IQN,
    "target_lun": 1,
    "volume_id": ID,
    "access_mode": "rw",
    "encrypted": False,
    "discard": True,
    "qos_specs": None,
    "cacheable": False,
}
CHAP = {"auth_method": "CHAP", "auth_username": "alice", "auth_password": PASSWORD}
DISCOVERY = {f"discovery_{key}": value for key, value in CHAP.items()}


def lists(*ways: tuple[str, str, int]) -> dict[str, Any]:
    portals, targets, luns = zip(*ways, strict=True)
    return {"target_portals": [*portals], "target_iqns": [*targets], "target_luns": [*luns]}


TWO = lists(("192.0.2.7:3260", IQN, 1), ("[2001:db8::7]:3261", IQN, 1))


def urls(info: dict[str, Any]) -> list[str]:
    return [str(url) for url in read_connection(info).urls]


@pytest.mark.parametrize(
    "coat",
    [
        lambda data: data,
        lambda data: {"driver_volume_type": "iscsi", "data": data},
        lambda data: {"connection_info": {"driver_volume_type": "iscsi", "data": data}},
        lambda data: {"driver_volume_type": "iscsi", "attachment_id": "x", **data},
        lambda data: {"attachment": {"id": "x", "connection_info": data}},
    ],
    ids=["data", "driver", "volume API", "flat", "attachment API"],
)
def test_each_coat(coat: Any) -> None:
    found = read_connection(coat(SINGLE | CHAP | DISCOVERY))
    assert [str(url) for url in found.urls] == [f"iscsi://192.0.2.7:3260/{IQN}/1"]
    assert found.name == f"cinder-{ID}"
    assert not found.read_only
    assert found.chap is not None
    assert (found.chap.user, found.chap.mutual_user) == ("alice", "")
    assert found.notes == ()
    assert PASSWORD not in repr(found)
    assert "192.0.2.7" in repr(found)


def test_several_portals_are_one_volume() -> None:
    assert urls(SINGLE | TWO) == [f"iscsi://192.0.2.7:3260,[2001:db8::7]:3261/{IQN}/1"]
    assert urls(TWO) == urls(SINGLE | TWO)


def test_a_portal_of_its_own_comes_first() -> None:
    """Cinder names the same one again in the lists."""
    found = urls(SINGLE | {"target_portal": "192.0.2.8:3260"} | TWO)
    assert found == [f"iscsi://192.0.2.8:3260,192.0.2.7:3260,[2001:db8::7]:3261/{IQN}/1"]


def test_one_lun_for_all_portals() -> None:
    given = SINGLE | TWO
    del given["target_luns"]
    assert urls(given) == urls(SINGLE | TWO)


def test_a_target_for_each_portal() -> None:
    """Two ways: portals of one URL lead to one target."""
    given = lists(
        ("192.0.2.7:3260", IQN, 1), ("192.0.2.8:3260", f"{IQN}b", 4), ("192.0.2.9", IQN, 1)
    )
    assert urls(given) == [
        f"iscsi://192.0.2.7:3260,192.0.2.9:3260/{IQN}/1",
        f"iscsi://192.0.2.8:3260/{IQN}b/4",
    ]
    first, second = read_connection(given | {"volume_id": ID}).specs()
    assert first.name == second.name == f"cinder-{ID}"


@pytest.mark.parametrize("lun", [0, "0", 1, "16383"])
def test_a_lun_is_a_number_or_its_text(lun: object) -> None:
    assert urls(SINGLE | {"target_lun": lun})[0].endswith(f"/{lun}")


@pytest.mark.parametrize(("mode", "read_only"), [("ro", True), ("rw", False), (None, False)])
def test_access_mode(mode: str | None, read_only: bool) -> None:
    found = read_connection(SINGLE | {"access_mode": mode})
    assert found.read_only is read_only
    assert found.specs()[0].read_only is read_only


def test_limits_are_told() -> None:
    limits = {"total_iops_sec": 500}
    (note,) = read_connection(SINGLE | {"qos_specs": limits}).notes
    assert "total_iops_sec" in note


def test_the_name_needs_no_more_than_the_id() -> None:
    """What was connected can be ended whatever else is missing by then."""
    assert volume_name({"volume_id": ID}) == f"cinder-{ID}"
    assert volume_name({"data": {"volume_id": ID, "auth_method": "CHAP"}}) == f"cinder-{ID}"
    without = {key: value for key, value in SINGLE.items() if key != "volume_id"}
    assert volume_name(without) == f"cinder-{IQN}-lun1"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encrypted": True}, "connection_info encrypted True: an encrypted volume"),
        ({"access_mode": "wo"}, "access_mode 'wo': is not known; one of rw, ro"),
        ({"driver_volume_type": "rbd"}, "driver_volume_type 'rbd': is not iSCSI"),
        ({"data": [1]}, "connection_info data: is no mapping"),
        ({"target_portal": None}, "target_portal: is missing; all of target_portal"),
        ({"target_portal": None, "target_lun": None}, "target_portal, target_lun: is missing"),
        ({"target_portal": "192.0.2.300"}, "target_portal '192.0.2.300': '192.0.2.300' is no IPv4"),
        ({"target_iqn": "disk"}, "target_iqn 'disk': "),
        ({"target_lun": -1}, "target_lun -1: is no LUN"),
        ({"target_lun": True}, "target_lun True: is no LUN"),
        ({"target_lun": 16384}, "target_lun 16384: is above 16383"),
        (TWO | {"target_iqns": [IQN]}, "have 1 target_iqns and 2 target_luns; the lists must be"),
        (TWO | {"target_luns": [1, 1, 1]}, "have 2 target_iqns and 3 target_luns"),
        (TWO | {"target_portals": []}, "'0 of them': have 2 target_iqns"),
        (TWO | {"target_portals": "192.0.2.7"}, "target_portals '192.0.2.7': is no list"),
        ({"target_portals": ["192.0.2.7"]}, "target_iqns: is missing; all of target_portal"),
        ({"auth_method": "SRP"}, "auth_method 'SRP': is not known"),
        (CHAP | {"auth_password": None}, "auth_password: is missing, and auth_method is CHAP"),
        (CHAP | {"auth_username": ""}, "auth_username: is missing"),
        (CHAP | {"auth_password": 5}, "auth_password: is missing"),
    ],
)  # fmt: skip
def test_what_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read_connection(SINGLE | CHAP | change)
    assert says in str(caught.value)
    assert PASSWORD not in str(caught.value)


def write(path: Path, content: object, mode: int = 0o600) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return str(path)


def test_a_file(tmp_path: Path) -> None:
    found = load_connection(write(tmp_path / "c.json", SINGLE | CHAP))
    assert found == read_connection(SINGLE | CHAP)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_password_that_others_may_read_or_write(tmp_path: Path, mode: int) -> None:
    for known in (CHAP, DISCOVERY):  # also one that is not needed here
        path = write(tmp_path / "c.json", SINGLE | known, mode)
        with pytest.raises(InvalidSpec, match=rf"mode {mode:04o}\); chmod 600"):
            load_connection(path)
    assert load_connection(write(tmp_path / "c.json", SINGLE, mode)).chap is None


def test_a_pipe(tmp_path: Path) -> None:
    """As a shell makes it of <(...): whatever its mode says, it is nobody else's to read."""
    reading, writing = os.pipe()
    os.write(writing, json.dumps(SINGLE | CHAP).encode())
    os.close(writing)
    try:
        assert load_connection(f"/proc/self/fd/{reading}").chap is not None
    finally:
        os.close(reading)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    given = io.TextIOWrapper(io.BytesIO(json.dumps(SINGLE | CHAP).encode()))
    monkeypatch.setattr(sys, "stdin", given)
    assert load_connection("-").chap is not None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is no JSON"),
        (f'{{"auth_password": "{PASSWORD}"', "is no JSON: "),
        ('["x"]', "is no JSON object"),
        ("[" * 100_000, "is no JSON"),
        (" " * (1 << 20) + "{}", "is larger than"),
    ],
    ids=range(5),
)
def test_a_file_that_is_none(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(InvalidSpec, match=says) as caught:
        load_connection(write(tmp_path / "c.json", content))
    assert PASSWORD not in str(caught.value)
