# SPDX-License-Identifier: Apache-2.0
"""What befalls a session while the login that would continue it is under way."""

from __future__ import annotations

import os

from pyscsi_init.errors import OutcomeUnknown, SessionFailed
from pyscsi_init.session import ConnectionEnded, LoginEnded, Replay, SessionState, TaskState
from tests.conformance.levels import LUN_2, Command, Played

DATA = os.urandom(512)


def in_the_login(*commands: Command) -> Played:
    """The connection is lost under these commands, and the login for the next one is begun."""
    played = Played(2)
    for command in commands:
        played.submit(command)
    played.cut()
    assert played.machine.continuing
    played.full_feature = False
    played.machine.connect(played.now)
    assert played.take()[0].tsih
    return played


def test_closed_in_the_login_ends_every_command() -> None:
    read, write = Command(512), Command(DATA, replay=Replay.NEVER)
    played = in_the_login(read, write)
    played.machine.request_logout(played.now)
    played.settle()
    assert isinstance(read.error, SessionFailed)
    assert isinstance(write.error, OutcomeUnknown)
    assert not played.machine.tasks.in_flight
    assert not played.machine.continuing
    assert played.machine.state is SessionState.Q1_FREE
    assert isinstance(played.events[-1], LoginEnded)


def test_enough_of_waiting_in_the_login() -> None:
    """The login that would go on with the commands is given up with them: had it succeeded, the
    numbers of those that the target does not have would be missing."""
    read, write = Command(512), Command(DATA)
    played = in_the_login(read, write)
    played.machine.refuse(SessionFailed("enough"))
    played.settle()
    assert isinstance(read.error, SessionFailed)
    assert isinstance(write.error, SessionFailed)
    assert played.lost
    assert isinstance(played.events[-1], LoginEnded)
    played.log_in()
    assert played.login_requests[0].tsih == 0
    assert played.machine.held
    assert played.machine.tasks.unknown_outcome == {LUN_2}


def test_the_time_to_retain_ends_in_the_login() -> None:
    """The login has a time of its own; no deadline in the past makes its owner spin."""
    read = Command(512)
    played = in_the_login(read)
    machine = played.machine
    connection = machine.connection
    assert connection is not None
    connection.login_deadline = played.now + 30
    played.now += 22.5
    deadline = machine.next_deadline()
    assert deadline == connection.login_deadline
    assert machine.continuing
    played.now = deadline
    machine.handle_deadline(played.now)
    played.settle()
    assert played.lost
    deadline = machine.next_deadline()
    assert deadline is not None
    assert deadline <= played.now
    machine.handle_deadline(played.now)
    assert not machine.continuing
    assert read.task.state is TaskState.SUSPENDED
    assert machine.next_deadline() is None
    assert sum(isinstance(each, ConnectionEnded) for each in played.events) == 1
