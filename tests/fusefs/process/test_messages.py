# SPDX-License-Identifier: Apache-2.0
"""What crosses the process border comes out as it went in, and secrets show themselves nowhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusefs.errors import DeviceBusy, InvalidSpec, MountBusy, ProcessUser, WorkerFailed
from fusefs.process.control import ControlConnection
from fusefs.process.messages import (
    MAX_LINE_BYTES,
    BadMessage,
    StartDocument,
    decode_error,
    decode_line,
    encode_error,
    encode_line,
)
from fusefs.spec import VolumeSpec
from pyscsi_init.errors import AuthenticationFailed, LunNotFound, MediumError
from pyscsi_init.secret import Chap, Secret

SPEC = VolumeSpec(name="data", url="iscsi://127.0.0.1/iqn.2026-01.com.example:disk1/1")
SECRET = b"correct horse\x00\xff"
CHAP = Chap(
    user="me",
    secret=Secret(SECRET),
    mutual_user="it",
    mutual_secret=Secret(b"staple battery"),
    algorithms=(7, 5),
    allow_short_secret=True,
)


def document(chap: Chap | None = CHAP) -> StartDocument:
    return StartDocument(
        spec=SPEC,
        chap=chap,
        isid=bytes.fromhex("800001020003"),
        directory="/run/x",
        fuse_directory="/run/x/fuse",
        state_directory="/var/lib/x",
        deadline_s=30.0,
    )


@pytest.mark.parametrize("chap", [CHAP, None])
def test_start_document_round_trip(chap: Chap | None) -> None:
    decoded = StartDocument.decode(document(chap).encode())
    assert decoded.chap == chap
    assert decoded.spec.to_json() == SPEC.to_json()
    assert decoded.isid == bytes.fromhex("800001020003")
    assert (decoded.directory, decoded.fuse_directory) == ("/run/x", "/run/x/fuse")
    assert decoded.deadline_s == 30.0


def test_a_start_document_does_not_show_its_secrets() -> None:
    shown = repr(document()) + str(document())
    assert "secret" not in shown.lower()
    assert "horse" not in shown


@given(st.binary(max_size=200))
def test_bytes_that_are_no_start_document_are_refused_without_being_quoted(data: bytes) -> None:
    with pytest.raises(BadMessage) as refused:
        StartDocument.decode(data)
    assert len(str(refused.value)) < 80


def test_a_start_document_with_a_wrong_secret_does_not_quote_it() -> None:
    values = json.loads(document().encode())
    values["chap"]["secret"] = "horse"
    with pytest.raises(BadMessage) as refused:
        StartDocument.decode(encode_line(values))
    assert "horse" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationFailed("the target refused", status_class=2, status_detail=1),
        MediumError("bad block", sense_key=3, asc=0x11, ascq=0, information=77),
        LunNotFound("no LUN 9"),
        InvalidSpec("file system", "x", "is not one", remedy="write another"),
        DeviceBusy("/dev/loop0", reason="open"),
        MountBusy("/mnt", users=(ProcessUser(12, "cat", "open file"),), mounts=("/mnt/a",)),
    ],
)
def test_an_error_keeps_its_class_text_and_fields(error: Exception) -> None:
    decoded = decode_error(json.loads(json.dumps(encode_error(error))), "data")
    assert type(decoded) is type(error)
    assert str(decoded) == str(error)
    assert vars(decoded) == vars(error)


def test_busy_pids_survive_the_border() -> None:
    error = MountBusy("/mnt", users=(ProcessUser(12, "cat", "open file"),))
    decoded = decode_error(json.loads(json.dumps(encode_error(error))), "data")
    assert isinstance(decoded, MountBusy)
    assert decoded.pids == (12,)


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        {"class": "SystemExit", "message": "bye"},
        {"class": "annotations", "message": "no class"},
        {"class": "ProcessUser", "message": "no error"},
        encode_error(ValueError("a bug")),
    ],
)
def test_a_foreign_error_becomes_worker_failed(values: object) -> None:
    assert type(decode_error(values, "data")) is WorkerFailed


def test_a_document_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        encode_line({"x": "y" * MAX_LINE_BYTES})


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.integers()), max_size=5),
    st.integers(min_value=1, max_value=40),
)
def test_requests_come_out_whole_however_they_are_cut(
    requests: list[dict[str, int]], step: int
) -> None:
    stream = b"".join(encode_line(request) for request in requests)
    connection = ControlConnection()
    received: list[dict[str, int]] = []
    for start in range(0, len(stream), step):
        received += connection.receive(stream[start : start + step])
    assert received == requests


def test_a_line_without_an_end_is_refused_at_the_limit() -> None:
    connection = ControlConnection()
    assert connection.receive(b"x" * MAX_LINE_BYTES) == []
    with pytest.raises(BadMessage):
        connection.receive(b"x")


@given(st.binary(max_size=100))
def test_any_bytes_are_requests_or_bad_message(data: bytes) -> None:
    try:
        ControlConnection().receive(data)
        decode_line(data)
    except BadMessage:
        pass
