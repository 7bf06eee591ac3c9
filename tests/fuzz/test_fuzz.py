# SPDX-License-Identifier: Apache-2.0
"""Every fuzz target: briefly with hypothesis and with the driver's mutations, at length in soak.

Hypothesis makes a failure small; the driver is fast. Both run the same functions.
"""

from __future__ import annotations

import secrets
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyscsi_init.pdu import INITIATOR_PDUS, TARGET_PDUS
from tests.fuzz.driver import TARGETS, Report, fuzz, run_batch, shares
from tests.fuzz.mutation import Mutator
from tests.fuzz.target import FuzzTarget
from tests.support import totals

SOAK_INPUTS = 1_500_000
BRIEF_INPUTS = 200
SLOWEST_S = 2.0
"""CPU time of one input: more would be a way to keep the loop busy with few bytes."""


def counted(report: Report) -> Report:
    totals.count("fuzz inputs tried", report.inputs)
    totals.count("fuzz exceptions", report.exceptions)
    return report


def check(report: Report) -> None:
    failures = "\n".join(f"{where}: {text}" for where, text in report.failures.items())
    assert report.exceptions == 0, f"{report}\n{failures}"
    assert report.slowest_s < SLOWEST_S, str(report)


@pytest.mark.parametrize("name", TARGETS)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_with_hypothesis(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    octets = data.draw(st.one_of(st.binary(max_size=120), st.sampled_from(list(target.seeds))))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(octets)))
        octets = octets[:at] + data.draw(st.binary(max_size=8)) + octets[at + 4 :]
    target.check(octets[: target.longest])


@pytest.mark.parametrize("name", TARGETS)
def test_with_mutations(name: str) -> None:
    check(counted(run_batch(name, 20_260_101, BRIEF_INPUTS)))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_million_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    seed = secrets.randbelow(1 << 32)

    def tell(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}")
            sys.stdout.flush()

    tell(f"fuzz seed {seed}")
    report = fuzz(SOAK_INPUTS, seed, tell=tell)
    tell(str(report))
    assert report.inputs >= SOAK_INPUTS
    assert len(report.per_target) == len(TARGETS)
    check(counted(report))


# -- the tool itself ---------------------------------------------------------------------------


def test_every_pdu_is_a_target() -> None:
    decoders = [*INITIATOR_PDUS.values(), *TARGET_PDUS.values()]
    assert {f"pdu {cls.__name__}" for cls in decoders} <= set(TARGETS)


def test_what_is_planted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that believes a length, and one that takes its time."""

    def believes(data: bytes) -> None:
        if len(data) > 2 and data[0] > len(data):
            raise IndexError(data[0])

    monkeypatch.setitem(TARGETS, "planted", FuzzTarget("planted", believes, [b"\4abcd"]))
    report = run_batch("planted", 1, 500)
    assert report.exceptions > 10
    (where,) = report.failures
    assert where.startswith("planted: IndexError at ")
    with pytest.raises(AssertionError, match="exceptions: "):
        check(report)

    def slow(_data: bytes) -> None:
        end = time.process_time() + SLOWEST_S
        while time.process_time() < end:
            pass

    monkeypatch.setitem(TARGETS, "slow", FuzzTarget("slow", slow, [b"x"]))
    with pytest.raises(AssertionError, match="slowest"):
        check(run_batch("slow", 1, 1))


def test_mutations_are_the_same_for_a_seed_and_different_for_each() -> None:
    seeds = [bytes(range(100)), b"abc" * 20]
    first, again, other = (
        [mutator.next() for _ in range(200)]
        for mutator in (Mutator(seeds, 1, 90), Mutator(seeds, 1, 90), Mutator(seeds, 2, 90))
    )
    assert first == again != other
    assert len(set(first)) > 150
    assert max(map(len, first)) <= 90


def test_nobody_gets_less_than_his_share() -> None:
    batches = shares(10_000, TARGETS)
    given_to = {name: sum(count for each, count in batches if each == name) for name in TARGETS}
    assert sum(given_to.values()) >= 10_000
    assert min(given_to.values()) > 50
