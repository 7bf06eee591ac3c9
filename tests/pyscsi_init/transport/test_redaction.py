# SPDX-License-Identifier: Apache-2.0
"""No piece of a login's bytes that is written down holds what proves who one is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.login.text import encode_pairs
from pyscsi_init.pdu import LoginRequest, LoginResponse, NopIn, Pdu, serialize
from pyscsi_init.transport.redaction import MASKED_KEYS, Redactor

RESPONSE = "0x0123456789abcdef0123456789abcdef"


def wire(*pdus: Pdu) -> bytes:
    return b"".join(bytes(buffer) for pdu in pdus for buffer in serialize(pdu))


def request(data: bytes, *, more: bool = False) -> LoginRequest:
    return LoginRequest(transit=False, continue_=more, data=data)


def fed(outward: bool, stream: bytes, cuts: list[int]) -> bytes:
    redactor = Redactor()
    out = b""
    for cut in cuts:
        out += redactor.feed(outward, stream[:cut])
        stream = stream[cut:]
    return out + redactor.feed(outward, stream)


cuts = st.lists(st.integers(0, 90), max_size=8)
pairs = st.lists(
    st.tuples(
        st.sampled_from(["CHAP_R", "CHAP_N", "CHAP_I", "CHAP_C", "chap_r", "SRP_M", "X-CHAP_R"]),
        st.text("0123456789abcdefx=", min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=6,
)


@given(pairs, cuts, st.integers(0, 300), st.booleans())
def test_any_pieces_and_any_split(
    keys: list[tuple[str, str]], pieces: list[int], split: int, outward: bool
) -> None:
    text = encode_pairs(keys)
    split = min(split, len(text))
    pdus = [request(text[:split], more=True), request(text[split:])]
    stream = wire(*pdus)
    shown = fed(outward, stream, pieces)
    masked = [
        (key, "*" * len(value) if key.upper().encode() in MASKED_KEYS else value)
        for key, value in keys
    ]
    expected = encode_pairs(masked)
    assert shown == wire(request(expected[:split], more=True), request(expected[split:]))


def test_other_pdus_and_the_challenge_stay() -> None:
    text = encode_pairs([("CHAP_N", "me"), ("CHAP_C", RESPONSE), ("CHAP_R", RESPONSE)])
    shown = Redactor().feed(True, wire(request(text)))
    assert shown.count(RESPONSE.encode()) == 1
    assert b"CHAP_C=" + RESPONSE.encode() in shown
    assert b"CHAP_R=" + b"*" * len(RESPONSE) + b"\0" in shown


def test_after_the_login_phase_nothing_is_looked_at() -> None:
    """What a disk holds may look like a key."""
    redactor = Redactor()
    last = LoginResponse(transit=True, current_stage=1, next_stage=3, data=b"a=b\0")
    disk = wire(NopIn(data=b"CHAP_R=12345\0"))
    both = wire(last) + disk
    assert redactor.feed(False, both) == both
    data = wire(request(b"CHAP_R=12345\0"))
    assert redactor.feed(True, data) is data


def test_a_failed_login_does_not_end_the_phase() -> None:
    redactor = Redactor()
    redactor.feed(False, wire(LoginResponse(transit=True, next_stage=3, status_class=2)))
    assert b"12345" not in redactor.feed(True, wire(request(b"CHAP_R=12345\0")))


@given(st.binary(max_size=400), cuts, st.booleans())
def test_any_bytes(data: bytes, pieces: list[int], outward: bool) -> None:
    assert len(fed(outward, data, pieces)) == len(data)
