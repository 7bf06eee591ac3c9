# SPDX-License-Identifier: Apache-2.0
"""The selection of a grid: few cells, in which every three values meet; and what must come out."""

from __future__ import annotations

import itertools

from tests.support.grid import AXES, Cell, covering, every_cell


def test_every_three_values_of_any_three_axes_meet() -> None:
    cells = covering()
    assert 80 <= len(cells) <= 200
    assert len(set(cells)) == len(cells)
    for names in itertools.combinations(AXES, 3):
        wanted = set(itertools.product(*(AXES[name] for name in names)))
        found = {tuple(getattr(cell, name) for name in names) for cell in cells}
        assert found == wanted, names


def test_the_selection_is_the_same_in_every_process() -> None:
    assert [str(cell) for cell in covering()] == [str(cell) for cell in covering()]
    assert len({str(cell) for cell in covering()}) == len(covering())


def test_the_full_product() -> None:
    count = 1
    for values in AXES.values():
        count *= len(values)
    assert len(set(every_cell())) == count


def test_what_must_come_out() -> None:
    cell = Cell(
        target="small",
        initial_r2t=False,
        immediate_data=True,
        header_digest=("CRC32C", "None"),
        data_digest=("None", "CRC32C"),
        bursts=(65536, 262144),
        max_recv_data_segment_length=8192,
        block_size=512,
    )
    assert cell.expected() == {
        "initial_r2t": False,
        "immediate_data": True,
        "header_digest": True,
        "data_digest": False,
        "max_burst_length": 16384,
        "first_burst_length": 2048,
        "max_recv_data_segment_length": 8192,
        "error_recovery_level": 0,
    }
