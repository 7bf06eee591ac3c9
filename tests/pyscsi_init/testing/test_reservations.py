# SPDX-License-Identifier: Apache-2.0
"""Reservations: who is kept out, who takes over, and who is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyscsi_init.testing import LogicalUnit, Nexus
from pyscsi_init.testing.conditions import Result

Run = Callable[..., Result]

WATCHER = Nexus("iqn.2024-01.example.host:watcher", bytes(6), "iqn.2024-01.example:t", 1)
"""Asks without being logged in, so no unit attention is in its way."""

READ, WRITE = "28 00 00 00 00 00 00 00 01", "2a 00 00 00 00 00 00 00 01"
CONFLICT = 0x18


@pytest.fixture
def out(run: Run) -> Run:
    """``out(action, nexus, key=..., new=..., kind=...)`` is PERSISTENT RESERVE OUT."""

    def out(action: int, nexus: Nexus, *, key: int = 0, new: int = 0, kind: int = 0) -> Result:
        data = key.to_bytes(8, "big") + new.to_bytes(8, "big") + bytes(8)
        cdb = bytes((0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0))
        return run(cdb, data, nexus=nexus)

    return out


def keys(run: Run) -> list[int]:
    data = run("5e 00 00 00 00 00 00 10 00", nexus=WATCHER).data
    return [int.from_bytes(data[i : i + 8], "big") for i in range(8, len(data), 8)]


def held(run: Run) -> tuple[int, int] | None:
    data = run("5e 01 00 00 00 00 00 10 00", nexus=WATCHER).data
    return (int.from_bytes(data[8:16], "big"), data[21]) if len(data) > 8 else None


def sense(result: Result) -> tuple[int, int, int]:
    return result.sense[2], result.sense[12], result.sense[13]


@pytest.mark.parametrize(
    ("kind", "registered", "may_read", "may_write"),
    [
        (1, False, True, False),
        (1, True, True, False),
        (3, False, False, False),
        (3, True, False, False),
        (5, False, True, False),
        (5, True, True, True),
        (6, False, False, False),
        (6, True, True, True),
        (7, False, True, False),
        (7, True, True, True),
        (8, False, False, False),
        (8, True, True, True),
    ],
)
def test_who_may_do_what(
    run: Run,
    out: Run,
    alice: Nexus,
    bob: Nexus,
    kind: int,
    registered: bool,
    may_read: bool,
    may_write: bool,
) -> None:
    assert out(0, alice, new=0xA).status == 0
    if registered:
        assert out(0, bob, new=0xB).status == 0
    assert out(1, alice, key=0xA, kind=kind).status == 0
    assert run(WRITE, bytes(512), nexus=alice).status == 0
    assert run(READ, nexus=bob).status == (0 if may_read else CONFLICT)
    assert run(WRITE, bytes(512), nexus=bob).status == (0 if may_write else CONFLICT)
    assert run("12 00 00 00 60", nexus=bob).status == 0
    assert run("00", nexus=bob).status == 0


def test_only_a_registrant_reserves(out: Run, alice: Nexus, bob: Nexus) -> None:
    assert out(1, alice, key=0xA, kind=5).status == CONFLICT
    assert out(0, alice, new=0xA).status == 0
    assert out(1, alice, key=0xB, kind=5).status == CONFLICT, "with its key"
    assert out(1, alice, key=0xA, kind=5).status == 0
    assert out(1, alice, key=0xA, kind=5).status == 0, "again the same"
    assert out(1, alice, key=0xA, kind=1).status == CONFLICT
    assert out(0, bob, new=0xB).status == 0
    assert out(1, bob, key=0xB, kind=5).status == CONFLICT


def test_preempt_takes_over_and_tells(run: Run, out: Run, alice: Nexus, bob: Nexus) -> None:
    out(0, alice, new=0xA)
    out(0, bob, new=0xB)
    out(1, alice, key=0xA, kind=5)
    assert out(4, bob, key=0xB, new=0xA, kind=5).status == 0
    assert (keys(run), held(run)) == ([0xB], (0xB, 5))
    assert sense(run(WRITE, bytes(512), nexus=alice)) == (6, 0x2A, 5), "registrations preempted"
    assert run(WRITE, bytes(512), nexus=alice).status == CONFLICT


def test_preempt_and_abort_ends_the_tasks_of_the_victim(
    unit: LogicalUnit, out: Run, alice: Nexus, bob: Nexus
) -> None:
    ended: list[tuple[LogicalUnit, Nexus]] = []
    unit.abort_nexus.append(lambda unit, nexus: ended.append((unit, nexus)))
    out(0, alice, new=0xA)
    out(0, bob, new=0xB)
    out(1, alice, key=0xA, kind=1)
    assert out(5, bob, key=0xB, new=0xA, kind=1).status == 0
    assert ended == [(unit, alice)]


def test_preempting_nobody_conflicts(out: Run, alice: Nexus) -> None:
    out(0, alice, new=0xA)
    assert out(4, alice, key=0xA, new=0xDEAD, kind=5).status == CONFLICT


def test_release_tells_the_other_registrants(run: Run, out: Run, alice: Nexus, bob: Nexus) -> None:
    out(0, alice, new=0xA)
    out(0, bob, new=0xB)
    out(1, alice, key=0xA, kind=5)
    assert sense(out(2, alice, key=0xA, kind=1)) == (5, 0x26, 4), "of another type"
    assert out(2, bob, key=0xB, kind=5).status == 0, "not the holder: nothing happens"
    assert held(run) == (0xA, 5)
    assert out(2, alice, key=0xA, kind=5).status == 0
    assert held(run) is None
    assert sense(run("00", nexus=bob)) == (6, 0x2A, 4)


def test_a_registration_outlives_its_session(
    run: Run, out: Run, unit: LogicalUnit, alice: Nexus, bob: Nexus
) -> None:
    out(0, alice, new=0xA)
    out(1, alice, key=0xA, kind=1)
    unit.detach(alice)
    assert run(WRITE, bytes(512), nexus=bob).status == CONFLICT
    unit.attach(alice)
    assert run(WRITE, bytes(512), nexus=alice).status == 0


def test_unregistering_the_holder_releases(run: Run, out: Run, alice: Nexus, bob: Nexus) -> None:
    out(0, alice, new=0xA)
    out(0, bob, new=0xB)
    out(1, alice, key=0xA, kind=6)
    assert out(0, alice, key=0xA, new=0).status == 0
    assert (keys(run), held(run)) == ([0xB], None)
    assert sense(run("00", nexus=bob)) == (6, 0x2A, 4)


def test_all_registrants_hold_together(run: Run, out: Run, alice: Nexus, bob: Nexus) -> None:
    out(0, alice, new=0xA)
    out(0, bob, new=0xB)
    out(1, alice, key=0xA, kind=7)
    out(0, alice, key=0xA, new=0)
    assert held(run) == (0, 7), "bob still holds it"
    out(0, bob, key=0xB, new=0)
    assert held(run) is None


def test_register_needs_the_present_key(out: Run, run: Run, alice: Nexus) -> None:
    out(0, alice, new=0xA)
    assert out(0, alice, key=0xF, new=0xB).status == CONFLICT
    assert out(6, alice, new=0xC).status == 0, "REGISTER AND IGNORE EXISTING KEY"
    assert keys(run) == [0xC]


def test_clear(out: Run, run: Run, alice: Nexus, bob: Nexus) -> None:
    out(0, alice, new=0xA)
    out(0, bob, new=0xB)
    out(1, alice, key=0xA, kind=5)
    assert out(3, bob, key=0xB).status == 0
    assert (keys(run), held(run)) == ([], None)
    assert sense(run("00", nexus=alice)) == (6, 0x2A, 3)


def test_generation_counts_registrations(out: Run, run: Run, alice: Nexus) -> None:
    out(0, alice, new=0xA)
    out(1, alice, key=0xA, kind=5)
    assert int.from_bytes(run("5e 00 00 00 00 00 00 00 08").data[:4], "big") == 1


def test_full_status_names_the_port(out: Run, run: Run, alice: Nexus) -> None:
    out(0, alice, new=0xA)
    out(1, alice, key=0xA, kind=5)
    data = run("5e 03 00 00 00 00 00 10 00").data
    assert data[8 + 12] & 1, "R_HOLDER"
    assert alice.initiator_port.encode() in bytes(data)


def test_a_parameter_list_of_another_length_is_refused(run: Run, alice: Nexus) -> None:
    assert sense(run("5f 00 00 00 00 00 00 00 08", bytes(8), nexus=alice)) == (5, 0x1A, 0)


def test_reserve_6(run: Run, unit: LogicalUnit, alice: Nexus, bob: Nexus) -> None:
    assert run("16", nexus=alice).status == 0
    assert run("16", nexus=bob).status == CONFLICT
    assert run(READ, nexus=bob).status == CONFLICT
    assert run("17", nexus=bob).status == 0
    assert run(READ, nexus=bob).status == CONFLICT, "not bob's to release"
    unit.detach(alice)
    assert run(READ, nexus=bob).status == 0
