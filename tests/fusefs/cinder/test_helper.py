# SPDX-License-Identifier: Apache-2.0
"""Calls in a process of its own: how it is started, and what comes back when it cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fusefs.cinder.connector import IscsiConnector
from fusefs.cinder.elsewhere import PROGRAM, call_elsewhere
from fusefs.cinder.helper import METHODS
from fusefs.errors import InvalidSpec, NoSuchVolume, NotAllowed
from tests.support.source import ROOT

USER = 65534
"""nobody"""


def test_every_call_that_needs_root_is_among_them() -> None:
    local = {"set_driver", "set_execute", "set_root_helper", "get_search_path"}
    local |= {"check_IO_handle_valid"}
    public = {name for name in vars(IscsiConnector) if not name.startswith("_")}
    assert public - local - {"platform", "os_type"} == set(METHODS)


@pytest.mark.root
def test_an_error_comes_back_as_what_it_was(tmp_path: Path) -> None:
    directories = {"run_dir": tmp_path / "run", "state_dir": tmp_path / "state"}
    with pytest.raises(NoSuchVolume, match="cinder-x") as caught:
        call_elsewhere(None, "extend_volume", {"volume_id": "x"}, directories=directories)
    assert caught.value.name == "cinder-x"
    with pytest.raises(InvalidSpec, match="encrypted"):
        call_elsewhere("env", "connect_volume", {"encrypted": True}, directories=directories)
    assert call_elsewhere(None, "get_all_available_volumes", directories=directories) == []


@pytest.mark.parametrize("method", ["__class__", "set_execute", "_run"])
def test_no_other_method_can_be_called(method: str) -> None:
    with pytest.raises(NotAllowed, match="is none of them"):
        call_elsewhere(None, method)


@pytest.mark.parametrize(
    ("root_helper", "says"),
    [
        ("/nonexistent/sudo -n", "/nonexistent/sudo: No such file"),
        ("false", "ended with status 1: it said nothing; have root_helper allow"),
        ("sh -c 'echo not allowed >&2; exit 99'", "status 99: not allowed"),
        ("echo", "ended with status 0"),
    ],
)
def test_a_root_helper_that_does_not_help(root_helper: str, says: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        call_elsewhere(root_helper, "get_volume_paths", {"auth_password": "hidden"})
    assert says in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.root
def test_another_user_tells_the_name_of_root() -> None:
    """With a name of his own Cinder would export to somebody who never logs in."""
    helper = """sh -c 'echo "{\\"result\\": {\\"initiator\\": \\"of root\\"}}"'"""
    program = (
        "from fusefs.cinder.connector import get_connector_properties\n"
        f"print(get_connector_properties({helper!r}, '192.0.2.1', True, True)['initiator'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=ROOT, check=False, user=USER,
    )  # fmt: skip
    assert done.stdout == "of root\n", done.stderr


def test_nothing_is_looked_for_where_the_service_stands() -> None:
    """Nor in what its environment says: it is another user's."""
    assert "-I" in PROGRAM
    done = subprocess.run(
        PROGRAM, input=json.dumps({"method": "x", "arguments": [], "directories": {}}),
        capture_output=True, text=True, cwd="/", check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["error"]["class"] == "NotAllowed"
