# SPDX-License-Identifier: Apache-2.0
"""Volumes that were written for csi-driver-iscsi and for democratic-csi's node-manual driver."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fusefs.convert.translate import Conversion
from fusefs.errors import InvalidSpec
from tests.fusefs.convert.converting import IQN, Outcome, convert, parsed

OTHER, MANUAL = "iscsi.csi.k8s.io", "org.democratic-csi.node-manual"
PASSWORD = "a-password-of-16"
CLEAR = {
    "node.session.auth.username": "alice",
    "node.session.auth.password": PASSWORD,
    "node.session.auth.username_in": "",
    "node.session.auth.password_in": "",
    "node.sendtargets.auth.username": "bob",
    "node.sendtargets.auth.password": "another-password",
}


def of_csi_driver_iscsi(source: dict[str, Any] | None = None, **attributes: str) -> dict[str, Any]:
    given = {"targetPortal": "10.0.2.15:3260", "portals": "[]", "iqn": IQN, "lun": "2"}
    given |= {"iscsiInterface": "default", "discoveryCHAPAuth": "false"} | attributes
    return {"driver": OTHER, "volumeHandle": "handle1", "volumeAttributes": given, **(source or {})}


def of_node_manual(source: dict[str, Any] | None = None, **attributes: str) -> dict[str, Any]:
    given = {"node_attach_driver": "iscsi", "provisioner_driver": "node-manual"}
    given |= {"portal": "10.0.2.15:3260", "iqn": IQN, "lun": "0"} | attributes
    return {
        "driver": MANUAL,
        "volumeHandle": "handle1",
        "volumeAttributes": given,
        **(source or {}),
    }


def volume(csi: dict[str, Any], **spec: Any) -> Outcome:
    given = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "disk1"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "csi": csi,
            **spec,
        },
    }
    return convert(json.dumps(given, indent=1))


def test_csi_driver_iscsi() -> None:
    found = volume(
        of_csi_driver_iscsi(
            {"fsType": "xfs", "readOnly": True},
            portals='["10.0.2.16:3260"]',
            initiatorName="iqn.2026-01.com.example:node",
            discovery="true",
        ),
        mountOptions=["noatime"],
    )
    assert found.csi() == {
        "driver": "iscsi.pyscsi-init.io",
        "volumeHandle": "handle1",
        "fsType": "xfs",
        "readOnly": True,
        "volumeAttributes": {
            "targetPortal": "10.0.2.15:3260",
            "portals": '["10.0.2.16:3260"]',
            "iqn": IQN,
            "lun": "2",
            "initiatorName": "iqn.2026-01.com.example:node",
            "readOnly": "true",
        },
    }
    assert found.only("PersistentVolume")["spec"]["mountOptions"] == ["noatime"]
    assert found.report.converted[0].source == "csi-driver-iscsi"
    assert not found.notes("lost")


def test_no_file_system_is_made_up() -> None:
    """Only the in-tree volume has a default of its own."""
    assert "fsType" not in volume(of_csi_driver_iscsi()).csi()


def test_credentials_in_the_manifest_become_a_secret() -> None:
    """They were in an attribute, which all may read who may look at the volume."""
    found = volume(
        of_csi_driver_iscsi(secret=json.dumps(CLEAR), discoveryCHAPAuth="true"),
        claimRef={"kind": "PersistentVolumeClaim", "namespace": "shop", "name": "goods"},
    )
    secret = found.only("Secret")
    assert secret["metadata"] == {"name": "disk1-chap", "namespace": "shop"}
    assert secret["type"] == "kubernetes.io/iscsi-chap"
    assert secret["stringData"] == {
        "node.session.auth.username": "alice",
        "node.session.auth.password": PASSWORD,
        "discovery.sendtargets.auth.username": "bob",
        "discovery.sendtargets.auth.password": "another-password",
    }
    assert found.csi()["nodeStageSecretRef"] == {"name": "disk1-chap", "namespace": "shop"}
    assert found.attributes()["chapAuthSession"] == "true"
    assert PASSWORD not in json.dumps(found.only("PersistentVolume"))
    assert PASSWORD not in json.dumps(found.report.to_json())
    assert found.text.count(PASSWORD) == 1
    assert "Secret/shop/disk1-chap" in found.report.converted[0].made
    ((_, field),) = found.notes("action")
    assert field == "spec.csi.volumeAttributes.secret"


@pytest.mark.parametrize(
    "secret", [f'{{"password": "{PASSWORD}"}}', f'"{PASSWORD}"', f"{{{PASSWORD}", "[1]"]
)
def test_credentials_that_cannot_be_read_are_not_shown(secret: str) -> None:
    with pytest.raises(InvalidSpec, match=r"volumeAttributes\.secret: ") as caught:
        volume(of_csi_driver_iscsi(secret=secret))
    assert PASSWORD not in str(caught.value)


def test_credentials_that_were_not_used_are_not_used_now() -> None:
    """Without a flag that driver did not authenticate, and a target may not know how to."""
    reference = {"nodeStageSecretRef": {"name": "chap", "namespace": "vault"}}
    found = volume(of_csi_driver_iscsi(reference, secret=json.dumps(CLEAR)))
    assert [each["kind"] for each in found.objects] == ["PersistentVolume"]
    assert "nodeStageSecretRef" not in found.csi()
    assert PASSWORD not in found.text
    assert found.notes() == [
        ("action", "spec.csi.volumeAttributes.secret"), ("info", "spec.csi.nodeStageSecretRef"),
    ]  # fmt: skip


def test_a_secret_that_is_referred_to_stays() -> None:
    reference = {"name": "chap", "namespace": "vault"}
    found = volume(of_csi_driver_iscsi({"nodeStageSecretRef": reference}, sessionCHAPAuth="true"))
    assert found.csi()["nodeStageSecretRef"] == reference
    assert found.attributes()["chapAuthSession"] == "true"


def test_inline_volumes_of_csi_driver_iscsi() -> None:
    csi = of_csi_driver_iscsi({"nodePublishSecretRef": {"name": "chap"}}, sessionCHAPAuth="true")
    del csi["volumeHandle"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "containers": [{"name": "main", "image": "busybox"}],
            "volumes": [{"name": "data", "csi": csi}],
        },
    }
    found = convert(json.dumps(pod))
    assert found.csi()["nodeStageSecretRef"] == {"name": "chap", "namespace": "shop"}
    (used,) = found.only("Pod")["spec"]["volumes"]
    assert set(used) == {"name", "persistentVolumeClaim"}


def test_node_manual() -> None:
    found = volume(
        of_node_manual({"fsType": "ext4"}, portals="10.0.2.15:3260, 10.0.2.16", interface="default")
    )
    assert found.csi()["volumeHandle"] == "handle1"
    assert found.attributes() == {
        "targetPortal": "10.0.2.15:3260",
        "portals": '["10.0.2.16"]',
        "iqn": IQN,
        "lun": "0",
    }
    assert found.report.converted[0].source == "node-manual"


def test_the_secret_of_node_manual_keeps_its_keys() -> None:
    """The driver finds in it whether there is CHAP."""
    reference = {"name": "chap", "namespace": "vault"}
    found = volume(of_node_manual({"nodeStageSecretRef": reference}))
    assert found.csi()["nodeStageSecretRef"] == reference
    assert "chapAuthSession" not in found.attributes()
    assert ("info", "spec.csi.nodeStageSecretRef") in found.notes()


def test_an_interface_that_has_no_equivalent() -> None:
    assert volume(of_node_manual(interface="iser")).notes("lost") == [
        ("lost", "spec.csi.volumeAttributes.interface")
    ]
    assert volume(of_csi_driver_iscsi(iscsiInterface="iser")).notes("lost") == [
        ("lost", "spec.csi.volumeAttributes.iscsiInterface")
    ]


@pytest.mark.parametrize(
    ("csi", "field"),
    [
        (of_csi_driver_iscsi(lun="x"), r"volumeAttributes\.lun 'x'"),
        (of_csi_driver_iscsi(lun="010"), r"volumeAttributes\.lun '010'"),
        (of_csi_driver_iscsi(lun="16384"), r"volumeAttributes\.lun '16384'"),
        (of_csi_driver_iscsi(portals="10.0.2.16"), r"volumeAttributes\.portals '10\.0\.2\.16'"),
        (of_csi_driver_iscsi(other="x"), r"volumeAttributes\.other: is no field here"),
        (of_csi_driver_iscsi({"volumeAttributes": None}), r"volumeAttributes None?|no mapping"),
        (of_node_manual(portal=""), r"volumeAttributes\.portal: is missing"),
        (of_node_manual(iqn="disk"), r"volumeAttributes\.iqn 'disk'"),
    ],
)
def test_what_cannot_be(csi: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec, match=field):
        volume(csi)


@pytest.mark.parametrize(
    "csi",
    [
        {"driver": "other.example.com", "volumeHandle": "x"},
        {"driver": "iscsi.pyscsi-init.io", "volumeHandle": "x"},
        of_node_manual(node_attach_driver="nfs"),
        of_node_manual(provisioner_driver="freenas-iscsi"),
    ],
)
def test_other_drivers_stay(csi: dict[str, Any]) -> None:
    text = json.dumps({"kind": "PersistentVolume", "metadata": {"name": "x"}, "spec": {"csi": csi}})
    assert Conversion("f").run(text) == text
    assert parsed(text)
