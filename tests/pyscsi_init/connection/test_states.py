# SPDX-License-Identifier: Apache-2.0
"""The connection states against the table of RFC 7143 8.1.3, cell by cell."""

from __future__ import annotations

import pytest

from pyscsi_init.connection import TRANSITIONS, ConnectionState, Transition, next_state
from pyscsi_init.connection.states import LOST
from pyscsi_init.errors import ProtocolError

RFC_8_1_3 = """
     | S1  | S2 | S4 | S5 | S6  | S7  | S8
  S1 | -   | T1 | -  | -  | -   | -   | -
  S2 | T2  | -  | T4 | -  | -   | -   | -
  S4 | T7  | -  | -  | T5 | -   | -   | -
  S5 | T8  | -  | -  | -  | T9  | T11 | T15
  S6 | T13 | -  | -  | -  | T14 | -   | T17
  S7 | T18 | -  | -  | -  | T10 | T12 | T16
  S8 | -   | -  | -  | -  | -   | -   | -
"""

STATES = {state.name[:2]: state for state in ConnectionState}
BY_NUMBER = {transition.name.split("_")[0]: transition for transition in Transition}


def rfc_table() -> dict[tuple[ConnectionState, Transition], ConnectionState]:
    """The table as it is printed: a row is where a transition begins, a column where it ends."""
    rows = [[cell.strip() for cell in line.split("|")] for line in RFC_8_1_3.split("\n") if line]
    columns = rows[0][1:]
    return {
        (STATES[row[0]], BY_NUMBER[cell]): STATES[column]
        for row in rows[1:]
        for column, cell in zip(columns, row[1:], strict=True)
        if cell != "-"
    }


# RFC 7143 8.2.2: the cleanup states are a diagram of their own; M1 leads back to FREE.
CLEANUP = {(STATES["S8"], Transition.M1_CLEANED_UP): STATES["S1"]}


def test_erl_016_the_table_is_the_standards() -> None:
    """RFC 7143 8.1.3: the connection state diagram of an initiator."""
    assert rfc_table() | CLEANUP == TRANSITIONS


@pytest.mark.parametrize("state", ConnectionState)
@pytest.mark.parametrize("transition", Transition)
def test_erl_016_there_are_no_others(state: ConnectionState, transition: Transition) -> None:
    expected = (rfc_table() | CLEANUP).get((state, transition))
    if expected is not None:
        assert next_state(state, transition) is expected
    else:
        with pytest.raises(ProtocolError, match=transition.name):
            next_state(state, transition)


@pytest.mark.parametrize("state", ConnectionState)
def test_a_loss_leads_to_free_from_everywhere(state: ConnectionState) -> None:
    """At level 0 CLEANUP_WAIT is passed through: there is nothing to wait for."""
    for transition in LOST[state]:
        state = next_state(state, transition)
    assert state is ConnectionState.S1_FREE
