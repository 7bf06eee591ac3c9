# SPDX-License-Identifier: Apache-2.0
"""Options of `docker volume create`: what they make, and how each wrong one is told."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fusefs.docker.options import OPTIONS, spec_of
from fusefs.errors import InvalidSpec
from fusefs.spec import VolumeSpec
from pyscsi_init.errors import ConfigurationError
from tests.support.source import ROOT

IQN = "iqn.2026-01.com.example:disk"
ADDRESS = {"portal": "192.0.2.7", "target": IQN, "lun": "1"}
SECRET = "not-to-be-repeated"


def spec(**options: Any) -> VolumeSpec:
    return spec_of("data", {**ADDRESS, **options})


def refused(**options: Any) -> str:
    with pytest.raises((InvalidSpec, ConfigurationError)) as caught:
        spec_of("data", {key: text for key, text in options.items() if text is not None})
    return str(caught.value)


def test_the_address_becomes_the_url() -> None:
    made = spec_of("data", ADDRESS)
    assert (made.name, made.url) == ("data", f"iscsi://192.0.2.7:3260/{IQN}/1")


def test_several_portals_and_an_ipv6_one() -> None:
    made = spec(portal="storage.example:3261, [2001:db8::7]")
    assert made.url == f"iscsi://storage.example:3261,[2001:db8::7]:3260/{IQN}/1"


def test_a_url_instead_of_the_three() -> None:
    made = spec_of("data", {"url": f"iscsi://192.0.2.7/{IQN}/3"})
    assert made.url == f"iscsi://192.0.2.7:3260/{IQN}/3"


def test_every_option_reaches_its_field() -> None:
    made = spec(
        fstype="xfs",
        mkfs="true",
        mountopts="noatime,,discard",
        fsck="never",
        chap_user="alice",
        chap_secret_file="/etc/alice",
        chap_peer_user="storage",
        chap_peer_secret_file="/etc/storage",
        initiator_name="iqn.2026-01.com.example:node",
        on_disconnect="fail-after=30",
        durability="fua",
        fencing="required",
        take_over="yes",
        fuse="pyfuse3",
        network_namespace="storage",
        network_interface="storage0",
        **{"set.MaxBurstLength": "262144"},
    )
    assert made == VolumeSpec(
        name="data",
        url=f"iscsi://192.0.2.7:3260/{IQN}/1",
        fstype="xfs",
        format_if_blank=True,
        mount_options=("noatime", "discard"),
        fsck="never",
        chap_user="alice",
        chap_secret_file="/etc/alice",
        chap_peer_user="storage",
        chap_peer_secret_file="/etc/storage",
        initiator_name="iqn.2026-01.com.example:node",
        on_disconnect="fail-after=30",
        durability="fua",
        fencing="required",
        take_over=True,
        fuse_channel="pyfuse3",
        settings={
            "MaxBurstLength": "262144",
            "network_namespace": "storage",
            "network_interface": "storage0",
        },
    )
    filled = {option.field for option in OPTIONS.values() if option.field}
    others = {"name", "url", "settings", "block"}
    assert filled | others == set(VolumeSpec.__dataclass_fields__)


@pytest.mark.parametrize(("text", "on"), [("", True), ("True", True), ("1", True), ("no", False)])
def test_a_flag_may_be_given_without_a_value(text: str, on: bool) -> None:
    assert spec(readonly=text).read_only is on


def test_ro_among_the_mount_options_is_readonly() -> None:
    made = spec(mountopts="ro,noatime")
    assert made.read_only
    assert made.mount_options == ("noatime",)


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"portal": None}, ("option portal", "is missing", "pyscsi-init discover")),
        ({"target": None}, ("option target", "is missing")),
        ({"lun": None}, ("option lun", "is missing")),
        ({"portal": "host:port"}, ("option portal", "'host:port'", "host:port or")),
        ({"portal": "a,,b"}, ("option portal",)),
        ({"target": "disk one"}, ("option target", "'disk one'")),
        ({"lun": "one"}, ("option lun", "'one'", "0..16383", "pyscsi-init luns")),
        ({"lun": "16384"}, ("option lun", "'16384'")),
        ({"url": f"iscsi://h/{IQN}/1"}, ("option portal", "beside url", "give one")),
        ({"network_namespace": "a/b"}, ("option network_namespace", "'a/b'", "ip netns list")),
        ({"network_interface": "a b"}, ("option network_interface", "'a b'", "ip link")),
        ({"fstype": "ntfs"}, ("option fstype", "'ntfs'", "ext4, xfs, btrfs")),
        ({"mkfs": "xfs"}, ("option mkfs", "'xfs'", "true or false")),
        ({"readonly": "perhaps"}, ("option readonly", "'perhaps'", "true or false")),
        ({"readonly": "true", "mkfs": "true"}, ("read-only", "drop one")),
        ({"mountopts": "a b"}, ("mount option", "'a b'", "without commas")),
        ({"fsck": "always"}, ("option fsck", "'always'", "preen, never, force")),
        ({"chap_secret_file": "secret"}, ("option chap_secret_file", "is not an absolute")),
        ({"chap_peer_secret_file": "x"}, ("option chap_peer_secret_file", "absolute")),
        ({"initiator_name": "me"}, ("option initiator_name", "'me'")),
        ({"on_disconnect": "panic"}, ("option on_disconnect", "'panic'", "fail-after=SECONDS")),
        ({"durability": "none"}, ("option durability", "'none'", "target-cache, fua")),
        ({"fencing": "on"}, ("option fencing", "'on'", "auto, off, required")),
        ({"take_over": "2"}, ("option take_over", "'2'", "true or false")),
        ({"fuse": "fast"}, ("option fuse", "'fast'", "native, pyfuse3")),
        ({"lun": 1}, ("option lun", "is not text")),
        ({"size": "10G"}, ("option 'size'", "is not known", "known are portal, target, lun")),
        ({"fs_type": "xfs"}, ("option 'fs_type'", "is not known", "did you mean fstype?")),
        ({"set.MaxBurst": "1"}, ("MaxBurst",)),
        ({"set.MaxBurstLength": "much"}, ("much",)),
    ],
)
def test_what_is_wrong_is_told_with_its_remedy(
    options: dict[str, Any], texts: tuple[str, ...]
) -> None:
    told = refused(**{**ADDRESS, **options})
    assert "\n" not in told
    for text in texts:
        assert text in told


@pytest.mark.parametrize("name", ["chap_secret", "CHAP_PASSWORD", "password", "chap_peer_secret"])
def test_a_secret_is_refused_and_not_repeated(name: str) -> None:
    told = refused(**ADDRESS, **{name: SECRET})
    assert SECRET not in told
    for text in (name, "docker volume inspect", "chap_secret_file"):
        assert text in told


@pytest.mark.parametrize(
    "options",
    [
        {"chap_secret_file": SECRET},
        {"chap_secert": SECRET},
        {"url": f"iscsi://u:{SECRET}@h/{IQN}/1"},
    ],
)
def test_what_may_be_a_secret_is_not_repeated(options: dict[str, str]) -> None:
    base = {} if "url" in options else ADDRESS
    assert SECRET not in refused(**base, **options)


def test_every_option_is_told_with_its_default() -> None:
    text = (ROOT / "docs/reference/docker-plugin.md").read_text()
    for option in OPTIONS.values():
        default = f"`{option.default}`" if option.default else ""
        assert f"| `{option.name}` | {default} | {option.meaning} |" in text
    text = text.partition("## Options")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert told == set(OPTIONS)
