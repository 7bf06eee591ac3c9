# SPDX-License-Identifier: Apache-2.0
"""The attributes of three families of iSCSI volumes, and ours; and what is refused of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusefs.csi.attributes import is_choice, is_ephemeral, read_attributes
from fusefs.csi.capabilities import Access
from fusefs.errors import InvalidSpec, VolumeError
from fusefs.spec import VolumeSpec
from pyscsi_init.errors import IscsiError

PLACE = {"targetPortal": "192.0.2.7", "iqn": "iqn.2026-11.example:disk", "lun": "1"}
URL = "iscsi://192.0.2.7:3260/iqn.2026-11.example:disk/1"


def access(**changes: object) -> Access:
    values: dict[str, object] = {
        "mode": "SINGLE_NODE_WRITER",
        "block": False,
        "fstype": "",
        "mount_options": (),
        "read_only": False,
        "many_targets": False,
        "shared_with_nodes": False,
    }
    return Access(**{**values, **changes})  # type: ignore[arg-type]


def spec(context: dict[str, str], **changes: object) -> VolumeSpec:
    return read_attributes(context).spec("v", access(**changes))


def test_in_tree() -> None:
    made = spec(
        {
            **PLACE,
            "portals": '["192.0.2.8:3261"]',
            "iscsiInterface": "default",
            "initiatorName": "iqn.2026-11.example:node",
            "fsType": "xfs",
            "readOnly": "true",
            "chapAuthDiscovery": "false",
            "chapAuthSession": "false",
        }
    )
    assert made.url == "iscsi://192.0.2.7:3260,192.0.2.8:3261/iqn.2026-11.example:disk/1"
    assert (made.fstype, made.read_only) == ("xfs", True)
    assert made.initiator_name == "iqn.2026-11.example:node"
    assert not made.format_if_blank


def test_csi_driver_iscsi() -> None:
    found = read_attributes(
        {
            **PLACE,
            "portals": "[]",
            "iscsiInterface": "default",
            "discovery": "true",
            "discoveryCHAPAuth": "true",
            "sessionCHAPAuth": "true",
        }
    )
    assert str(found.url) == URL
    assert found.wants_chap is True


def test_democratic_csi() -> None:
    found = read_attributes(
        {
            "portal": "192.0.2.7:3260",
            "portals": "192.0.2.7, [2001:db8::1]:3260",
            "iqn": "iqn.2026-11.example:disk",
            "lun": "0",
            "interface": "",
            "node_attach_driver": "iscsi",
            "provisioner_driver": "node-manual",
        }
    )
    assert str(found.url) == (
        "iscsi://192.0.2.7:3260,[2001:db8::1]:3260/iqn.2026-11.example:disk/0"
    )
    assert found.wants_chap is None


def test_our_own() -> None:
    made = spec(
        {
            **PLACE,
            "fencing": "required",
            "take_over": "true",
            "onDisconnect": "fail-after=30",
            "fsck": "never",
            "durability": "fua",
            "formatIfBlank": "false",
            "fuse-channel": "native",
            "MaxBurstLength": "65536",
            "queue_depth": "16",
        }
    )
    assert (made.fencing, made.take_over, made.on_disconnect) == ("required", True, "fail-after=30")
    assert (made.fsck, made.durability, made.format_if_blank) == ("never", "fua", False)
    assert made.session_settings().max_burst_length == 65536
    assert made.session_settings().queue_depth == 16


def test_what_nobody_says() -> None:
    made = spec(PLACE)
    assert made == VolumeSpec(name="v", url=URL, format_if_blank=True)


def test_the_capability_and_the_attributes() -> None:
    made = spec(PLACE, fstype="btrfs", mount_options=("noatime",), read_only=True)
    assert (made.fstype, made.mount_options, made.read_only) == ("btrfs", ("noatime",), True)
    assert not made.format_if_blank
    block = spec({**PLACE, "fsType": "ext4"}, block=True)
    assert (block.block, block.fstype, block.format_if_blank) == (True, "", False)
    assert spec(PLACE, block=True, shared_with_nodes=True).fencing == "off"
    with pytest.raises(InvalidSpec, match="keeps out the other nodes"):
        spec({**PLACE, "fencing": "required"}, block=True, shared_with_nodes=True)


def test_what_the_orchestrator_adds_is_skipped() -> None:
    context = {
        **PLACE,
        "csi.storage.k8s.io/pod.name": "web-0",
        "csi.storage.k8s.io/ephemeral": "true",
        "storage.kubernetes.io/csiProvisionerIdentity": "1-iscsi.pyscsi-init.io",
    }
    assert str(read_attributes(context).url) == URL
    assert is_ephemeral(context)
    assert not is_ephemeral({**context, "csi.storage.k8s.io/ephemeral": "false"})


@pytest.mark.parametrize(
    "key",
    [
        "secret",
        "node.session.auth.password",
        "node.session.auth.username",
        "node-db.node.session.auth.password_in",
        "discovery.sendtargets.auth.password",
        "chapPassword",
        "CHAP_SECRET",
        "chapSecretFile",
        "chapUser",
    ],
)
def test_a_secret_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(InvalidSpec, match="nodeStageSecretRef") as caught:
        read_attributes({**PLACE, key: "hush-hush"})
    assert key in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"targetPortal": ""}, "targetPortal: is missing; give host or host:port"),
        ({"iqn": ""}, "iqn: is missing"),
        ({"lun": ""}, "lun: is missing"),
        ({"lun": "-1"}, "no number in 0..16383"),
        ({"lun": "16384"}, "no number in 0..16383"),
        ({"lun": "1²"}, "no number"),
        ({"iqn": "disk"}, "disk"),
        ({"targetPortal": "host:0"}, "port"),
        ({"portal": "192.0.2.9", "targetportal": "192.0.2.9"}, "contradicts"),
        ({"portals": '{"a": 1}'}, "portal"),
        ({"portals": "[1]"}, "no list of strings"),
        ({"portals": "["}, "no list of strings"),
        ({"iscsiInterface": "iser0"}, "there is no iscsiadm here; leave it out"),
        ({"iscsiInterface": "iser0"}, "name that as networkInterface"),
        ({"networkNamespace": "/run/netns/a"}, "is a path of the node; give the namespace a name"),
        ({"Network-Namespace": "../a"}, "is a path of the node"),
        ({"networkNamespace": ".."}, "is neither a name nor an absolute path"),
        ({"networkInterface": "eth0:1"}, "is not the name of an interface"),
        ({"node_attach_driver": "nvmeof"}, "is not iscsi"),
        ({"readOnly": "maybe"}, "neither true nor false"),
        ({"discovery": "perhaps"}, "neither true nor false"),
        ({"fencng": "off"}, "fencng: is not known; known are targetPortal"),
        ({"trace": "/etc/cron.d/x"}, "names a file of the node"),
        ({"Trace-Size": "1"}, "names a file of the node"),
        ({"fsType": "../x"}, "is not the name of one"),
        ({"fencing": "perhaps"}, "one of auto, off, required"),
        ({"queueDepth": "0"}, "queue_depth"),
        ({"onDisconnect": "never"}, "wait, fail-fast"),
    ],
)
def test_refused(changes: dict[str, str], text: str) -> None:
    with pytest.raises((InvalidSpec, IscsiError)) as caught:
        spec({**PLACE, **changes})
    assert text in str(caught.value)


def test_the_value_of_an_unknown_attribute_is_not_repeated() -> None:
    with pytest.raises(InvalidSpec) as caught:
        read_attributes({**PLACE, "token": "hush-hush"})
    assert "hush" not in str(caught.value)


def test_a_network_of_the_node() -> None:
    made = spec({**PLACE, "networkNamespace": "storage", "network_interface": "storage0"})
    settings = made.session_settings()
    assert (settings.network_namespace, settings.network_interface) == ("storage", "storage0")


@pytest.mark.parametrize("key", ["networkNamespace", "network-interface", "NETWORKNAMESPACE"])
def test_the_author_of_a_pod_chooses_no_network(key: str) -> None:
    inline = {"csi.storage.k8s.io/ephemeral": "true"}
    with pytest.raises(InvalidSpec, match=f"{key} 'x': chooses a network .*PersistentVolume"):
        read_attributes({**PLACE, **inline, key: "x"})
    assert read_attributes({**PLACE, **inline, key: " "}).settings == {}


def test_what_belongs_to_a_volume_and_what_to_its_maker() -> None:
    assert all(
        is_choice(key) for key in ("fencing", "takeOver", "MaxBurstLength", "networkNamespace")
    )
    assert not any(is_choice(key) for key in ("tgtDirectory", "luns", "provisioner", "iqn"))


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from([*PLACE, "portals", "readOnly", "fencing", "queueDepth", "fsType"])
        | st.text(max_size=20),
        st.text(max_size=30),
    )
)
def test_whatever_is_given_is_a_volume_or_refused(context: dict[str, str]) -> None:
    try:
        spec({**PLACE, **context})
    except (VolumeError, IscsiError):
        return  # nothing else may come
