# SPDX-License-Identifier: Apache-2.0
"""The I_T nexus, without the socket: command window, tasks, data, task management, recovery."""

from ..pdu import TaskManagementFunction
from .bidirectional import BidirectionalTask
from .events import (
    AsyncEventReceived,
    ConnectionEnded,
    Continued,
    Event,
    LoggedIn,
    LoginEnded,
    Warned,
)
from .machine import SessionMachine
from .remains import describe_remains
from .states import SessionState
from .task import (
    ManagementTask,
    Replay,
    ScsiTask,
    TaskState,
    TextTask,
)

__all__ = [
    "AsyncEventReceived",
    "BidirectionalTask",
    "ConnectionEnded",
    "Continued",
    "Event",
    "LoggedIn",
    "LoginEnded",
    "ManagementTask",
    "Replay",
    "ScsiTask",
    "SessionMachine",
    "SessionState",
    "TaskManagementFunction",
    "TaskState",
    "TextTask",
    "Warned",
    "describe_remains",
]
