# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 6.3: the table of stage transitions, cell by cell."""

from __future__ import annotations

from itertools import product

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.login.stages import REQUESTED, START_STAGES, TRANSITIONS, check_transition
from pyscsi_init.pdu import Stage

TABLE = """
              0    1    3
    start     yes  yes  no
    0         no   yes  yes
    1         no   no   yes
    3         no   no   no
"""


def cells() -> list[tuple[str, int, bool]]:
    head, *rows = (line.split() for line in TABLE.strip().splitlines())
    return [
        (name, int(column), cell == "yes")
        for name, *row in rows
        for column, cell in zip(head, row, strict=True)
    ]


@pytest.mark.parametrize(("origin", "following", "legal"), cells())
def test_login_009_the_table_of_the_rfc(origin: str, following: int, legal: bool) -> None:
    if origin == "start":
        assert (following in START_STAGES) is legal
    else:
        assert ((Stage(int(origin)), Stage(following)) in TRANSITIONS) is legal


def test_login_009_what_we_ask_for_is_in_the_table() -> None:
    assert set(REQUESTED.items()) <= TRANSITIONS
    assert set(REQUESTED) == START_STAGES


@pytest.mark.parametrize(
    ("current", "requested", "selected"),
    list(product(START_STAGES, (0, 1, 2, 3), (0, 1, 2, 3))),
)
def test_login_009_any_current_any_requested_any_selected(
    current: Stage, requested: int, selected: int
) -> None:
    if selected > current and selected != 2 and selected <= requested:
        assert check_transition(current, requested, selected) == selected
    else:
        with pytest.raises(ProtocolError):
            check_transition(current, requested, selected)
