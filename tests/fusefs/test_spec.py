# SPDX-License-Identifier: Apache-2.0
"""VolumeSpec: one validation with clear errors, and names that are safe as paths."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusefs.errors import InvalidSpec
from fusefs.spec import VolumeSpec, default_volume_name, volume_dir_name
from pyscsi_init.errors import ConfigurationError

URL = "iscsi://127.0.0.1:3260/iqn.2026-01.com.example:disk1/1"


@given(st.text())
def test_a_directory_name_is_one_plain_component(name: str) -> None:
    encoded = volume_dir_name(name)
    assert PurePosixPath(encoded).parts == (encoded,)
    assert encoded not in (".", "..")
    assert not encoded.startswith(".")
    assert 0 < len(encoded.encode()) <= 255
    assert encoded.isascii()
    assert encoded.isprintable()


@given(st.text(), st.text())
def test_different_names_have_different_directories(one: str, other: str) -> None:
    assert (one == other) == (volume_dir_name(one) == volume_dir_name(other))


def test_long_names_that_differ_at_the_end_have_different_directories() -> None:
    assert volume_dir_name("x" * 250 + "a") != volume_dir_name("x" * 250 + "b")
    assert volume_dir_name("x" * 250).startswith("x" * 100)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../../etc/passwd", "a\0b", "%41", ""])
def test_a_hostile_name_stays_in_its_directory(name: str) -> None:
    assert "/" not in volume_dir_name(name)
    assert volume_dir_name(name) != name


def test_the_default_name_tells_target_and_lun() -> None:
    assert default_volume_name(URL) == "iqn.2026-01.com.example:disk1-lun1"
    assert VolumeSpec(url=URL).name == "iqn.2026-01.com.example:disk1-lun1"


def test_json_round_trip() -> None:
    spec = VolumeSpec(
        name="data",
        url=URL,
        fstype="xfs",
        format_if_blank=True,
        mount_options=("noatime", "nodev"),
        settings={"header_digest": ("CRC32C", "None"), "max_burst_length": 262144},
        on_disconnect="fail-after=20",
        durability="fua",
    )
    assert VolumeSpec.from_json(json.loads(json.dumps(spec.to_json()))).to_json() == spec.to_json()


def test_on_disconnect_becomes_the_recovery_timeout() -> None:
    assert VolumeSpec(url=URL).session_settings().recovery_timeout is None
    assert VolumeSpec(url=URL, on_disconnect="fail-fast").session_settings().recovery_timeout == 0
    assert (
        VolumeSpec(url=URL, on_disconnect="fail-after=7.5").session_settings().recovery_timeout
        == 7.5
    )
    assert (
        VolumeSpec(url=URL, settings={"recovery_timeout": 30}).session_settings().recovery_timeout
        == 30
    )


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"url": "iscsi://127.0.0.1/iqn.2026-01.com.example:disk1"}, "LUN"),
        ({"name": "x" * 300}, "longer"),
        ({"name": "a\nb"}, "control characters"),
        ({"fuse_channel": "libfuse"}, "native"),
        ({"fstype": "../sbin"}, "file system"),
        ({"fstype": "ntfs", "format_if_blank": True}, "ext4"),
        ({"read_only": True, "format_if_blank": True}, "read-only"),
        ({"mount_options": ("noatime,exec",)}, "commas"),
        ({"mount_options": ("ro",)}, "read_only"),
        ({"on_disconnect": "retry"}, "fail-fast"),
        ({"on_disconnect": "fail-after=never"}, "fail-after=SECONDS"),
        ({"on_disconnect": "fail-after=0"}, "fail-after=SECONDS"),
        ({"durability": "maybe"}, "target-cache, fua"),
        ({"on_disconnect": "fail-fast", "settings": {"recovery_timeout": 5}}, "contradicts"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(
    changes: dict[str, object], names: str
) -> None:
    with pytest.raises(InvalidSpec, match=names):
        VolumeSpec(**{"url": URL, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://127.0.0.1/x"},
        {"url": "iscsi://user:password@127.0.0.1/iqn.2026-01.com.example:disk1/1"},
        {"settings": {"no_such_setting": 1}},
        {"settings": {"max_burst_length": 3}},
        {"initiator_name": "nobody"},
    ],
)
def test_what_the_initiator_refuses_is_refused_here(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        VolumeSpec(**{"url": URL, **changes})  # type: ignore[arg-type]


def test_an_unknown_field_of_a_file_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="is not known"):
        VolumeSpec.from_json({"url": URL, "colour": "red"})
    with pytest.raises(InvalidSpec, match="is missing"):
        VolumeSpec.from_json({"name": "x"})


# -- credentials, checks, raw block ----------------------------------------------------------------


CHAP = {"chap_user": "me", "chap_secret_file": "/etc/secret"}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"chap_user": "me"}, "worth nothing without chap_secret_file"),
        ({"chap_secret_file": "/etc/secret"}, "worth nothing without chap_user"),
        (CHAP | {"chap_peer_user": "it"}, "worth nothing without chap_peer_secret_file"),
        ({"chap_peer_secret_file": "/etc/peer"}, "worth nothing without chap_secret_file"),
        (CHAP | {"chap_secret_file": "secret"}, "not an absolute path"),
        (CHAP | {"url": "iscsi://you@127.0.0.1/iqn.2026-01.com.example:d/1"}, "URL's 'you'"),
        ({"fsck": "always"}, "one of preen, never, force"),
        ({"fencing": "on"}, "one of auto, off, required"),
        ({"block": True, "fstype": "ext4"}, "drop block"),
        ({"block": True, "format_if_blank": True}, "drop block"),
        ({"block": True, "mount_options": ("noatime",)}, "drop block"),
    ],
)
def test_what_does_not_fit_together(values: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        VolumeSpec(**({"url": URL} | values))


@pytest.mark.parametrize(
    "values",
    [
        {"chap_secret_file": "hunter2hunter2"},
        {"chap_user": "me", "chap_secret_file": "hunter2hunter2"},
        CHAP | {"chap_peer_secret_file": "hunter2/hunter2"},
        {"chap_peer_secret_file": "hunter2hunter2"},
    ],
)
def test_what_may_be_a_secret_is_not_repeated(values: dict[str, object]) -> None:
    with pytest.raises(InvalidSpec, match="secret_file: is") as refused:
        VolumeSpec(**({"url": URL} | values))
    assert "hunter2" not in str(refused.value)
    assert refused.value.value is None


def test_the_user_of_the_url_needs_only_the_file() -> None:
    spec = VolumeSpec(
        url="iscsi://me@127.0.0.1/iqn.2026-01.com.example:d/1",
        chap_secret_file="/etc/secret",
        chap_peer_secret_file="/etc/peer",
    )
    assert spec.chap_user_or_url == "me"
    assert VolumeSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
