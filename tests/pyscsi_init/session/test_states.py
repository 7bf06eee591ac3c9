# SPDX-License-Identifier: Apache-2.0
"""The session states against the table of RFC 7143 8.3.1, cell by cell."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.session import SessionState
from pyscsi_init.session.states import SESSION_TRANSITIONS, SessionTransition, next_session_state

RFC_8_3_1 = """
     | Q1 | Q3 | Q4
  Q1 | -  | N1 | -
  Q3 | N3 | -  | N5
  Q4 | N6 | N4 | -
"""

STATES = {state.name[:2]: state for state in SessionState}
TRANSITIONS = {transition.name.split("_")[0]: transition for transition in SessionTransition}


def rfc_table() -> dict[tuple[SessionState, SessionTransition], SessionState]:
    """The table as it is printed: a row is where a transition begins, a column where it ends."""
    rows = [[cell.strip() for cell in line.split("|")] for line in RFC_8_3_1.split("\n") if line]
    columns = rows[0][1:]
    return {
        (STATES[row[0]], TRANSITIONS[cell]): STATES[column]
        for row in rows[1:]
        for column, cell in zip(columns, row[1:], strict=True)
        if cell != "-"
    }


def test_erl_016_the_table_is_the_standards() -> None:
    """RFC 7143 8.3.1: the session state diagram of an initiator."""
    assert rfc_table() == SESSION_TRANSITIONS


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("transition", SessionTransition)
def test_erl_016_there_are_no_others(state: SessionState, transition: SessionTransition) -> None:
    expected = rfc_table().get((state, transition))
    if expected is not None:
        assert next_session_state(state, transition) is expected
    else:
        with pytest.raises(ProtocolError, match=transition.name):
            next_session_state(state, transition)
