# SPDX-License-Identifier: Apache-2.0
"""What is asked of an iSNS server, and what is read of its answers."""

from __future__ import annotations

import pytest

from pyscsi_init.discovery import DiscoveredTarget
from pyscsi_init.discovery.isns import messages
from pyscsi_init.discovery.isns.attributes import Attribute, ScnBitmap
from pyscsi_init.discovery.isns.messages import ScnPortal, parse_scn, parse_targets
from pyscsi_init.discovery.isns.pdu import Message
from pyscsi_init.discovery.isns.status import STATUSES, error_of
from pyscsi_init.errors import (
    IsnsBusy,
    IsnsRejected,
    IsnsSourceRefused,
    IsnsUnsupported,
    ProtocolError,
)
from pyscsi_init.names import Portal
from tests.pyscsi_init.discovery.isns.scripted import (
    CLIENT,
    D1,
    D2,
    FIRST,
    LAST,
    ME,
    REPLACE,
    UDP,
    attributes_of,
    ip,
    scn,
    take,
    target,
    text,
    u32,
)

KEY = [(33, u32(1)), (0, b"")]


def found(*attributes: tuple[int, bytes]) -> list[DiscoveredTarget]:
    return parse_targets([Attribute(*each) for each in (*KEY, *attributes)])


def test_a_registration() -> None:
    request = messages.register(ME, "me", portal=ScnPortal("192.0.2.7", 5000), alias="my host")
    (data,) = request.message(1).encode()
    received = take(bytearray(data))
    assert received is not None
    assert received.flags == CLIENT | FIRST | LAST
    assert received.attributes == [
        (32, text(ME)),
        (1, text("me")),
        (0, b""),
        (1, text("me")),
        (2, u32(2)),
        (16, ip("192.0.2.7")),
        (17, u32(5000 | UDP)),
        (20, u32(5000 | UDP)),
        (23, u32(5000 | UDP)),
        (32, text(ME)),
        (33, u32(2)),
        (34, text("my host")),
    ]


def test_a_registration_that_replaces_and_one_that_adds() -> None:
    (data,) = messages.register(ME, "me", replace=True).message(1).encode()
    replacing = take(bytearray(data))
    assert replacing is not None
    assert replacing.flags == CLIENT | FIRST | LAST | REPLACE
    portal = ScnPortal("192.0.2.7", 5000)
    (data,) = messages.register(ME, "me", portal=portal, node=False, esi=False).message(1).encode()
    adding = take(bytearray(data))
    assert adding is not None
    assert [tag for tag, _ in adding.attributes] == [32, 1, 0, 1, 2, 16, 17, 23]


def test_the_other_requests() -> None:
    def sent(request: messages.Request) -> list[tuple[int, bytes]]:
        (data,) = request.message(1).encode()
        return attributes_of(data[12:])

    name = (32, text(ME))
    assert sent(messages.scn_register(ME)) == [name, name, (0, b""), (35, u32(0x5C))]
    assert sent(messages.scn_deregister(ME)) == [name, name, (0, b"")]
    entity = Attribute(1, text("me"))
    assert sent(messages.deregister(ME, [entity])) == [name, (0, b""), (1, text("me"))]
    assert sent(messages.query_node(ME, ME)) == [name, name, (0, b""), (1, b""), (32, b"")]


def test_targets_with_their_portals() -> None:
    two = target(D1, ("192.0.2.1", 3260, 1), ("192.0.2.2", 3261, 2), alias="Disk 1")
    other = target(D2, ("192.0.2.1", 3260, 7))
    assert found(*two, *other) == [
        DiscoveredTarget(
            D1, (Portal("192.0.2.1", 3260, 1), Portal("192.0.2.2", 3261, 2)), "Disk 1"
        ),
        DiscoveredTarget(D2, (Portal("192.0.2.1", 3260, 7),)),
    ]


def test_a_null_tag_means_no_relation() -> None:
    (only,) = found(*target(D1, ("192.0.2.1", 3260, 1), ("192.0.2.2", 3260, None)))
    assert only.portals == (Portal("192.0.2.1", 3260, 1),)


def test_portal_groups_after_all_portals() -> None:
    """The order of the example in RFC 4171 5.6.5.2."""
    (only,) = found(
        (32, text(D1)),
        (16, ip("192.0.2.1")), (17, u32(3260)), (16, ip("192.0.2.2")), (17, u32(3260)),
        (48, text(D1)), (49, ip("192.0.2.1")), (50, u32(3260)), (51, u32(1)),
        (48, text(D1)), (49, ip("192.0.2.2")), (50, u32(3260)), (51, b""),
    )  # fmt: skip
    assert only.portals == (Portal("192.0.2.1", 3260, 1),)


def test_what_is_missing_is_no_error() -> None:
    bare = (32, text(D1)), (16, ip("192.0.2.1")), (17, u32(0))
    assert found(*bare) == [DiscoveredTarget(D1, (Portal("192.0.2.1", 3260),))]
    assert found((32, text(D1))) == [DiscoveredTarget(D1, ())]
    assert found() == []
    assert parse_targets([]) == []
    assert found((32, b""), (16, ip("192.0.2.1"))) == []


def test_what_is_no_way_to_a_target() -> None:
    (udp,) = found((32, text(D1)), (16, ip("192.0.2.1")), (17, u32(3260 | UDP)))
    assert udp.portals == ()
    assert found((32, text(ME)), (33, u32(2))) == [], "an initiator"
    both = found((32, text(D1)), (33, u32(3)))
    assert [one.name for one in both] == [D1], "target and initiator in one"


def test_a_target_that_is_told_twice() -> None:
    once = target(D1, ("192.0.2.1", 3260, 1))
    assert found(*once, *once) == found(*once)


def test_an_answer_that_is_wrong() -> None:
    for wrong in ((17, b"\0\0\0"), (16, bytes(4))):
        with pytest.raises(ProtocolError):
            found((32, text(D1)), (16, ip("192.0.2.1")), wrong)
    with pytest.raises(ProtocolError, match="UTF-8"):
        found((32, b"\xff\xfe\0\0"))
    with pytest.raises(ProtocolError, match="status"):
        messages.Response.parse(Message(function_id=0x8002, transaction_id=1))


def test_a_refusal_has_no_attributes() -> None:
    """RFC 4171 5.4: what follows a status that is not zero is not looked at."""
    payload = u32(9) + b"\0\0\0\x20\xff\xff\xff\xfc"
    refused = messages.Response.parse(Message(function_id=1, transaction_id=1, payload=payload))
    assert refused == messages.Response(9)


def test_notifications() -> None:
    received = take(bytearray(scn((0x48, D1), (0x50, D2))))
    assert received is not None
    message = Message(function_id=8, transaction_id=1, payload=received.payload)
    destination, changes = parse_scn(message)
    assert destination.text == ME
    assert [(each.name, each.events) for each in changes] == [
        (D1, ScnBitmap.TARGET_AND_SELF_ONLY | ScnBitmap.OBJECT_ADDED),
        (D2, ScnBitmap.TARGET_AND_SELF_ONLY | ScnBitmap.OBJECT_REMOVED),
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (3, IsnsRejected), (6, IsnsSourceRefused), (8, IsnsSourceRefused), (12, IsnsBusy),
        (15, IsnsUnsupported), (21, IsnsUnsupported), (99, IsnsRejected),
    ],
)  # fmt: skip
def test_statuses_are_errors_with_a_remedy(status: int, kind: type[IsnsRejected]) -> None:
    error = error_of(status, "the query")
    assert type(error) is kind
    assert error.status == status
    assert "the query" in str(error)
    assert f"status {status} (" in str(error)
    assert str(error).partition("; ")[2]


def test_every_status_of_an_iscsi_client_is_known() -> None:
    reserved, of_fibre_channel = {4}, {19, 20}
    assert set(STATUSES) == set(range(1, 24)) - reserved - of_fibre_channel
