# SPDX-License-Identifier: Apache-2.0
"""Each field of the in-tree iSCSI volume, in a PersistentVolume and in a Pod."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from fusefs.errors import InvalidSpec
from tests.fusefs.convert.converting import FILE, IQN, Outcome, convert, pod, volume

BOTH = pytest.mark.parametrize("given", [volume, pod])
Given = Callable[[str], str]


def plain(outcome: Outcome) -> dict[str, str]:
    """The attributes that every volume has here."""
    attributes = outcome.attributes()
    assert attributes["iqn"] == IQN
    return attributes


@BOTH
@pytest.mark.parametrize(
    "portal",
    ["10.0.2.15:3260", "10.0.2.15", "10.0.2.15:860", "storage.example.com:3261"],
)
def test_target_portal(given: Given, portal: str) -> None:
    """With a port or without one: the default port is the same."""
    assert plain(convert(given(f"targetPortal: {portal}")))["targetPortal"] == portal


@BOTH
@pytest.mark.parametrize("portal", ["[2001:db8::1]:3260", "[2001:db8::1]", "2001:db8::1"])
def test_target_portal_of_ipv6(given: Given, portal: str) -> None:
    assert plain(convert(given(f'targetPortal: "{portal}"')))["targetPortal"] == portal


@BOTH
@pytest.mark.parametrize("portal", ["10.0.2.300", "10.0.2.15:0", "a b", "[::1", "host:port"])
def test_target_portal_that_is_none(given: Given, portal: str) -> None:
    with pytest.raises(InvalidSpec, match=r"iscsi\.targetPortal '.*': ") as caught:
        convert(given(f'targetPortal: "{portal}"'))
    assert str(caught.value).startswith(f"{FILE}, document 1, ")


@BOTH
def test_target_portal_that_is_missing(given: Given) -> None:
    with pytest.raises(InvalidSpec, match=r"iscsi\.targetPortal: is missing"):
        convert(given("targetPortal: null"))


@BOTH
def test_portals(given: Given) -> None:
    """The others; the first one is targetPortal."""
    attributes = plain(
        convert(given("portals: ['10.0.2.16:3260', '10.0.2.17', '[2001:db8::1]:3260']"))
    )
    assert json.loads(attributes["portals"]) == [
        "10.0.2.16:3260",
        "10.0.2.17",
        "[2001:db8::1]:3260",
    ]


@BOTH
def test_portals_that_are_named_twice(given: Given) -> None:
    found = convert(given("portals: [10.0.2.15, 10.0.2.16, '10.0.2.16:3260']"))
    assert json.loads(found.attributes()["portals"]) == ["10.0.2.16"]
    assert [field.rpartition(".")[2] for level, field in found.notes("info")][:2] == [
        "portals[0]", "portals[2]",
    ]  # fmt: skip


@BOTH
@pytest.mark.parametrize("portals", ["10.0.2.16", "[1]", "['']", "['a b']"])
def test_portals_that_are_none(given: Given, portals: str) -> None:
    with pytest.raises(InvalidSpec, match=r"iscsi\.portals"):
        convert(given(f"portals: {portals}"))


@BOTH
def test_no_portals(given: Given) -> None:
    assert "portals" not in plain(convert(given("portals: []")))


@BOTH
@pytest.mark.parametrize(
    "name", ["iqn.2015-02.example.com:A_b", "eui.02004567A425678D", "naa.5" + "0" * 15]
)
def test_iqn(given: Given, name: str) -> None:
    """Any form of the standard, byte for byte."""
    assert convert(given(f"iqn: {name}")).attributes()["iqn"] == name


@BOTH
@pytest.mark.parametrize("name", ["disk", "iqn.2015-13.example.com:x", "''", "12"])
def test_iqn_that_is_none(given: Given, name: str) -> None:
    with pytest.raises(InvalidSpec, match=r"iscsi\.iqn"):
        convert(given(f"iqn: {name}"))


@BOTH
@pytest.mark.parametrize("lun", [0, 1, 255])
def test_lun(given: Given, lun: int) -> None:
    """A number becomes a string: attributes are nothing else."""
    assert plain(convert(given(f"lun: {lun}")))["lun"] == str(lun)


@BOTH
@pytest.mark.parametrize("lun", ["-1", "256", "'1'", "1.5", "true", "null", "010", "x"])
def test_lun_that_is_none(given: Given, lun: str) -> None:
    with pytest.raises(InvalidSpec, match=r"iscsi\.lun"):
        convert(given(f"lun: {lun}"))


@BOTH
def test_fs_type(given: Given) -> None:
    assert convert(given("fsType: xfs")).csi()["fsType"] == "xfs"


@BOTH
def test_fs_type_that_is_not_told_is_ext4(given: Given) -> None:
    """In-tree it was; a driver could have another default."""
    assert convert(given("")).csi()["fsType"] == "ext4"
    assert convert(given("fsType: ''")).csi()["fsType"] == "ext4"


def test_a_raw_block_volume_has_no_fs_type() -> None:
    found = convert(volume("fsType: xfs", spec="volumeMode: Block"))
    assert "fsType" not in found.csi()
    assert found.only("PersistentVolume")["spec"]["volumeMode"] == "Block"


@BOTH
@pytest.mark.parametrize("word", ["true", "yes", "on"])
def test_read_only(given: Given, word: str) -> None:
    """``yes`` is true in the YAML of Kubernetes. The driver is told in an attribute too, because
    the field of the volume source is for the attaching that this driver does not need."""
    found = convert(given(f"readOnly: {word}"))
    assert found.csi()["readOnly"] is True
    assert found.attributes()["readOnly"] == "true"


@BOTH
@pytest.mark.parametrize("text", ["", "readOnly: false", "readOnly: no", "readOnly: null"])
def test_not_read_only(given: Given, text: str) -> None:
    found = convert(given(text))
    assert "readOnly" not in found.csi()
    assert "readOnly" not in found.attributes()


@BOTH
@pytest.mark.parametrize("word", ["'true'", "'yes'", "1", "perhaps"])
def test_read_only_that_is_neither(given: Given, word: str) -> None:
    with pytest.raises(InvalidSpec, match=r"iscsi\.readOnly .*neither true nor false"):
        convert(given(f"readOnly: {word}"))


def test_read_only_in_a_pod_is_shared() -> None:
    found = convert(pod("readOnly: true"))
    assert found.only("PersistentVolume")["spec"]["accessModes"] == ["ReadOnlyMany"]
    assert found.only("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadOnlyMany"]
    (used,) = found.only("Pod")["spec"]["volumes"]
    assert used["persistentVolumeClaim"]["readOnly"] is True


@BOTH
@pytest.mark.parametrize("interface", ["default", "tcp", "''"])
def test_iscsi_interface_that_is_plain_tcp(given: Given, interface: str) -> None:
    found = convert(given(f"iscsiInterface: {interface}"))
    assert set(plain(found)) == {"targetPortal", "iqn", "lun"}
    assert not found.notes("lost")


@BOTH
def test_iscsi_interface_that_has_no_equivalent(given: Given) -> None:
    found = convert(given("iscsiInterface: iser0"))
    assert "iscsiInterface" not in found.attributes()
    ((_, field),) = found.notes("lost")
    assert field.endswith("iscsi.iscsiInterface")
    (note,) = (each for each in found.report.notes if each.level == "lost")
    assert "'iser0'" in note.message
    assert note.remedy


@BOTH
def test_initiator_name(given: Given) -> None:
    name = "iqn.2026-01.com.example:node7"
    assert plain(convert(given(f"initiatorName: {name}")))["initiatorName"] == name
    with pytest.raises(InvalidSpec, match=r"iscsi\.initiatorName 'node7'"):
        convert(given("initiatorName: node7"))


SECRETS: list[tuple[Any, str]] = [
    (volume, "secretRef: {name: chap, namespace: vault}"),
    (pod, "secretRef: {name: chap}"),
]


@pytest.mark.parametrize(("given", "reference"), SECRETS, ids=["volume", "pod"])
def test_chap_auth_session(given: Given, reference: str) -> None:
    found = convert(given(f"chapAuthSession: true\n{reference}"))
    assert found.attributes()["chapAuthSession"] == "true"
    assert "chapAuthDiscovery" not in found.attributes()
    namespace = "vault" if given is volume else "shop"
    assert found.csi()["nodeStageSecretRef"] == {"name": "chap", "namespace": namespace}


@pytest.mark.parametrize(("given", "reference"), SECRETS, ids=["volume", "pod"])
def test_chap_auth_discovery(given: Given, reference: str) -> None:
    found = convert(given(f"chapAuthDiscovery: true\n{reference}"))
    assert found.attributes()["chapAuthDiscovery"] == "true"
    assert found.attributes()["chapAuthSession"] == "false"
    assert "nodeStageSecretRef" in found.csi()
    assert any(field.endswith("iscsi.chapAuthDiscovery") for _, field in found.notes("info"))


@BOTH
@pytest.mark.parametrize("flag", ["chapAuthSession", "chapAuthDiscovery"])
def test_chap_without_a_secret(given: Given, flag: str) -> None:
    with pytest.raises(InvalidSpec, match=r"iscsi\.secretRef: is missing, and CHAP is asked for"):
        convert(given(f"{flag}: true"))


@pytest.mark.parametrize(("given", "reference"), SECRETS, ids=["volume", "pod"])
def test_secret_ref_that_was_not_used(given: Given, reference: str) -> None:
    found = convert(given(reference))
    assert "nodeStageSecretRef" not in found.csi()
    assert any(field.endswith("iscsi.secretRef") for _, field in found.notes("info"))


def test_secret_ref_of_a_volume_without_a_namespace() -> None:
    """In-tree it was looked for where the claim is."""
    chap = "chapAuthSession: true\nsecretRef: {name: chap}"
    claimed = volume(chap, spec="claimRef: {kind: PersistentVolumeClaim, namespace: shop, name: x}")
    found = convert(claimed)
    assert found.csi()["nodeStageSecretRef"] == {"name": "chap", "namespace": "shop"}
    assert not found.notes("action")
    found = convert(volume(chap))
    assert found.csi()["nodeStageSecretRef"] == {"name": "chap", "namespace": "default"}
    assert ("action", "spec.iscsi.secretRef") in found.notes()
    found = convert(volume(chap), namespace="vault")
    assert found.csi()["nodeStageSecretRef"] == {"name": "chap", "namespace": "vault"}
    assert not found.notes("action")


@BOTH
@pytest.mark.parametrize("reference", ["chap", "{}", "{name: 1}", "{nme: chap}"])
def test_secret_ref_that_is_none(given: Given, reference: str) -> None:
    with pytest.raises(InvalidSpec, match=r"iscsi\.secretRef"):
        convert(given(f"chapAuthSession: true\nsecretRef: {reference}"))


@BOTH
def test_a_field_that_does_not_exist(given: Given) -> None:
    """It would be lost without a word, and may be one that was meant."""
    with pytest.raises(InvalidSpec, match=re.escape("iscsi.readonly: is no field here; known are")):
        convert(given("readonly: true"))
