# SPDX-License-Identifier: Apache-2.0
"""Arguments that cannot work are told by name, with what to give instead, and cost nothing."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import pytest

import pyscsi_init
from pyscsi_init import Chap, DiscoveredTarget, Fencing, IscsiUrl, Portal, Secret, UnitRecord
from pyscsi_init.errors import (
    ConfigurationError,
    InvalidUrl,
    LocalProtocolError,
    SecretError,
)
from pyscsi_init.settings import load_settings
from tests.support.python_target import make_target, opened

pytestmark = pytest.mark.anyio

URL = "iscsi://127.0.0.1:1/iqn.2026-11.example:x/0"
NAME = "iqn.2026-11.example:x"
SECRET = Secret("secret-secret-1")
HERE = Portal("127.0.0.1", 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"url": None}, "url: NoneType is neither text nor an IscsiUrl"),
        ({"url": Path("/x")}, "url: PosixPath"),
        ({"chap": "alice"}, "chap: str is neither a Chap"),
        ({"chap": ("alice", "secret")}, "chap: tuple is neither a Chap"),
        ({"settings": {"queue_depth": 4}}, r"settings: dict is no Settings; settings_from_mapping"),
        ({"settings": {}}, "settings: dict is no Settings"),
        ({"fencing": True}, r"fencing: bool is no Fencing; write Fencing\("),
        ({"predecessor": {}}, r"predecessor: dict is no UnitRecord; UnitRecord.from_json"),
    ],
)
async def test_open_lun(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        async with pyscsi_init.open_lun(**({"url": URL} | arguments)):
            pass


@pytest.mark.parametrize("portals", [None, "127.0.0.1:1", HERE, ["127.0.0.1:1"], [None]])
async def test_open_session_wants_portals(portals: Any) -> None:
    with pytest.raises(TypeError, match=r"portals: .* is no list of Portal; Portal.parse"):
        async with pyscsi_init.open_session(portals, NAME):
            pass


async def test_open_session_wants_one_at_least() -> None:
    with pytest.raises(LocalProtocolError, match="list of portals is empty"):
        async with pyscsi_init.open_session([], NAME):
            pass


@pytest.mark.parametrize("portal", [None, 3260])
async def test_discover(portal: Any) -> None:
    with pytest.raises(TypeError, match="is no list of Portal"):
        await pyscsi_init.discover(portal)


@pytest.mark.parametrize("key", [0, -1, 1 << 64])
async def test_a_fencing_key_that_is_none(key: int) -> None:
    """0 was taken for no key at all, and the node's own was used."""
    with pytest.raises(ConfigurationError, match=f"fencing key {key}: "):
        async with opened(make_target(), fencing=Fencing(key=key)):
            pass


@pytest.mark.parametrize(
    "fields",
    [("h", 65536), ("h", -1), ("h", "3260"), ("", 1), (None, 1), ("h", 1, -1), ("h", 1, 65536)],
)
def test_a_portal_that_cannot_be(fields: tuple[Any, ...]) -> None:
    """Port 65536 + n was looked up as port n: a login at somebody else's."""
    with pytest.raises(InvalidUrl, match="portal"):
        Portal(*fields)


@pytest.mark.parametrize("field", ["secret", "mutual_secret"])
@pytest.mark.parametrize("value", ["a plain secret", b"a plain secret", 5])
def test_a_secret_has_to_be_one(field: str, value: Any) -> None:
    """As text it stood in the repr, and the login failed in its middle with an open socket."""
    with pytest.raises(SecretError, match=r"give Secret\(text\)") as caught:
        Chap(**({"user": "alice", "secret": SECRET} | {field: value}))
    assert "plain" not in str(caught.value)


def test_a_mutual_user_wants_a_mutual_secret() -> None:
    """Without one the target did not have to prove itself, and nobody was told."""
    with pytest.raises(SecretError, match="'storage'; give mutual_secret"):
        Chap(user="alice", secret=SECRET, mutual_user="storage")


async def test_a_login_that_cannot_begin_leaves_no_socket() -> None:
    wrong = Chap(user="alice", secret=SECRET, algorithms=(5, "x"))  # type: ignore[arg-type]
    object.__setattr__(wrong, "user", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AttributeError):
            async with opened(make_target(), chap=wrong):
                pass
        gc.collect()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ("{}", "it is text: give what json.loads"),
        ({}, "KeyError: 'version'.*give what to_json"),
        (None, "TypeError: "),
    ],
)
def test_a_record_that_cannot_be_read(values: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"unit record: cannot be read .*{text}"):
        UnitRecord.from_json(values)


@pytest.mark.parametrize(
    ("text", "name"),
    [("queue_depth = 32", "queue_depth"), ("[sesion]\nqueue_depth = 32", "sesion")],
)
def test_a_file_with_settings_in_another_place(tmp_path: Path, text: str, name: str) -> None:
    """They were ignored, and the defaults were used."""
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=rf"has '{name}'.*table \[session\]"):
        load_settings(file)


def test_from_what_was_found_to_what_can_be_opened() -> None:
    target = DiscoveredTarget(NAME, (Portal("::1"), HERE))
    assert target.url(1) == IscsiUrl(None, (Portal("::1"), HERE), NAME, 1)
    assert str(target.url(1, user="alice")) == f"iscsi://alice@[::1]:3260,127.0.0.1:1/{NAME}/1"
    assert pyscsi_init.parse_url(str(target.url())) == target.url()
