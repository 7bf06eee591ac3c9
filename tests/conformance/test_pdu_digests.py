# SPDX-License-Identifier: Apache-2.0
"""Digests: where they are, and what a wrong one does (RFC 7143 7.8, 13.1)."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import HeaderDigestError, ProtocolError
from pyscsi_init.pdu import LoginRequest, LoginResponse, ScsiCommand
from pyscsi_init.session import LoginEnded
from pyscsi_init.testing.scripted import Digest, raw
from tests.conformance.conversation import BOTH, DIGESTS, NARROW, converse
from tests.pyscsi_init.session.scripted import Script


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("data", [False, True])
def test_pdu_011_digests_from_the_first_pdu_of_full_feature_phase(header: bool, data: bool) -> None:
    """RFC 7143 13.1: on every PDU after the final Login Response, on none before; each for
    itself."""
    choice = {True: "CRC32C", False: "None"}
    script = converse(
        settings=DIGESTS, HeaderDigest=choice[header], DataDigest=choice[data], **NARROW
    )
    seen = set()
    for entry in script.recorder.entries:
        wire = entry.wire
        login = isinstance(entry.pdu, (LoginRequest, LoginResponse))
        assert bool(wire.header_digest) is (header and not login)
        assert bool(wire.data_digest) is (data and not login and bool(wire.data))
        assert wire.header_digest_ok
        assert wire.data_digest_ok
        seen |= {(login, bool(wire.data))}
    assert len(seen) == 3


def test_pdu_011_a_digest_that_is_missing() -> None:
    script = Script(DIGESTS, **BOTH).log_in()
    script.send(*(raw(script.nop_in(), header_digest=Digest.NONE) for _ in range(2)))
    assert isinstance(script.ended().error, HeaderDigestError)


def test_pdu_011_a_digest_in_the_login_phase() -> None:
    """RFC 7143 6.2: digests are used after it only; there these bytes are no PDU."""
    script = Script(DIGESTS, **BOTH)
    script.connect()
    answer = script.login_answer(script.one(LoginRequest))
    script.send(raw(answer, header_digest=Digest.RIGHT))
    script.take()
    script.send(script.nop_in())
    assert isinstance(script.event(LoginEnded).error, ProtocolError)


@pytest.mark.parametrize("flip", [0, 3, 17, 47, 48, 51])
def test_pdu_012_a_bad_header_digest_ends_the_connection(flip: int) -> None:
    """RFC 7143 7.8: nothing of the PDU is used; the next one cannot be located."""
    script = Script(DIGESTS, **BOTH).log_in()
    read = script.read(0)
    response = script.response(script.one(ScsiCommand))
    script.send(raw(response, flip=(flip,)))
    assert isinstance(script.ended().error, HeaderDigestError)
    assert script.ended().again
    assert not read.done
