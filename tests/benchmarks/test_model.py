# SPDX-License-Identifier: Apache-2.0
"""Medians, ratios and verdicts, from samples whose answers can be told by hand."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest

from benchmarks import criteria
from benchmarks.criteria import CRITERIA, LIBISCSI, NBDFUSE, QEMU, QEMU_SERIAL, judge
from benchmarks.many import case_of
from benchmarks.model import OURS, Case, Run, Sample, with_grid
from benchmarks.plots import plots


def run_of(level: str, case: Case, **rates: list[dict[str, float]]) -> Run:
    """A run of one case: subject -> the values of its rounds."""
    run = Run(cases={level: {case.name: case}})
    for subject, rounds in rates.items():
        for number, values in enumerate(rounds):
            run.samples.append(Sample(level, case.name, subject, number, values))
    return run


def iops(*values: float) -> list[dict[str, float]]:
    return [{"iops": value} for value in values]


def test_names_of_cases() -> None:
    assert criteria.READ_32.name == "4 KiB random read, depth 32"
    assert criteria.SEQ_WRITE.name == "1 MiB sequential write, depth 8"
    assert criteria.NULL_TRIO.name == "4 KiB random read, depth 32, trio"
    assert criteria.PGBENCH.name == "pgbench, 4 clients"


def test_the_grid_has_every_combination_once_and_the_cases_that_are_wanted() -> None:
    cases = with_grid([criteria.READ_32, criteria.SEQ_WRITE])
    assert len({case.name for case in cases}) == len(cases) == 3 * 5 * 4 + 1
    assert [case.depth for case in cases if case.name.startswith("4 KiB random read, ")] == [
        1, 8, 32, 128,
    ]  # fmt: skip
    assert cases[0] == criteria.SEQ_WRITE


def test_a_ratio_is_of_medians_and_not_a_median_of_ratios() -> None:
    run = run_of("library", criteria.READ_32, ours=iops(10, 40, 20), libiscsi=iops(10, 10, 100))
    name = criteria.READ_32.name
    assert run.median("library", name, OURS, "iops") == 20
    assert run.ratio("library", name, OURS, LIBISCSI, "iops") == 2
    assert run.ratios("library", name, OURS, LIBISCSI, "iops") == [1, 4, 0.2]
    assert math.isnan(run.ratio("library", name, OURS, "nobody", "iops"))
    assert run.subjects("library") == [OURS, LIBISCSI]


def test_a_round_that_one_of_two_missed_is_in_no_ratio() -> None:
    run = run_of("library", criteria.READ_32, ours=iops(10, 20), libiscsi=iops(10))
    assert run.ratios("library", criteria.READ_32.name, OURS, LIBISCSI, "iops") == [1]


@pytest.mark.parametrize(
    ("ours", "word"), [(99, "missed"), (100, "met"), (119, "met"), (120, "aim met")]
)
def test_verdicts_on_rates(ours: float, word: str) -> None:
    run = run_of("library", criteria.READ_128, ours=iops(ours), libiscsi=iops(100))
    (verdict,) = judge(run)
    assert (verdict.word, verdict.ratio) == (word, ours / 100)


@pytest.mark.parametrize(
    ("ours", "word"), [(7.6, "missed"), (7.5, "met"), (6.1, "met"), (6.0, "aim met")]
)
def test_verdicts_on_cpu_time_want_less(ours: float, word: str) -> None:
    theirs = [{"iops": 1.0, "cpu_us": 10.0}]
    run = run_of("fuse", criteria.READ_32, ours=[{"iops": 1.0, "cpu_us": ours}], **{QEMU: theirs})
    rate, cpu = judge(run)
    assert (rate.word, cpu.word) == ("missed", word)


def test_the_best_of_the_correct_peers_is_the_faster_one() -> None:
    peers = {QEMU: iops(100), QEMU_SERIAL: iops(10, 30, 20), NBDFUSE: iops(15, 15, 15)}
    run = run_of("fuse", criteria.WRITE_32, ours=iops(60, 60, 60), **peers)
    corrupting, correct = judge(run)
    assert (corrupting.peer, corrupting.ratio) == (QEMU, 0.6)
    assert "corrupt" in corrupting.criterion.peer_text
    assert (correct.peer, correct.ratio, correct.word) == (QEMU_SERIAL, 3, "met")
    assert (correct.lowest, correct.highest) == (2, 6)


def test_what_is_wanted_is_complete_and_in_order() -> None:
    """Every row can be met, and an aim asks for more than the least."""
    assert len(CRITERIA) == 22
    for row in CRITERIA:
        sign = -1 if row.lower_is_better else 1
        assert sign * row.aim > sign * row.at_least or not row.peers, row
    assert case_of(50) == criteria.FIFTY


@pytest.mark.parametrize(("memory", "word"), [(11.9, "met"), (12.1, "missed")])
def test_a_figure_that_is_compared_with_nobody(memory: float, word: str) -> None:
    run = run_of("many", criteria.FIFTY, ours=[{"iops": 1.0, "pss_mib": memory}])
    (verdict,) = judge(run)
    assert (verdict.word, verdict.ratio) == (word, memory)
    assert list(plots(run)) == []


def test_there_and_back_through_json(tmp_path: Path) -> None:
    run = run_of("fuse", criteria.WRITE_32, ours=iops(1, 2), **{QEMU: iops(3, 4)})
    run.machine["cores"] = 2
    run.notes.append("a note")
    run.save(tmp_path / "run.json")
    again = Run.load(tmp_path / "run.json")
    assert again == run
    text = io.StringIO()
    again.dump(text)
    assert text.getvalue() == (tmp_path / "run.json").read_text()


def test_another_document_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="no result of this version"):
        Run.load(tmp_path / "run.json")
