# SPDX-License-Identifier: Apache-2.0
"""Real sockets: the only folder that touches the network."""

from .execute import ScsiResult, run_command, run_management
from .initiator_name import find_initiator_name, host_initiator_name
from .loops import open_reactor
from .management import AsynchronousEvent
from .network import Network
from .opening import OPEN_TIMEOUT, open_session
from .polling import UNDIVIDED_S
from .reactor import Reactor, Timer
from .session import Session
from .sockets import Connector, connect
from .statistics import SessionStatistics

__all__ = [
    "OPEN_TIMEOUT",
    "UNDIVIDED_S",
    "AsynchronousEvent",
    "Connector",
    "Network",
    "Reactor",
    "ScsiResult",
    "Session",
    "SessionStatistics",
    "Timer",
    "connect",
    "find_initiator_name",
    "host_initiator_name",
    "open_reactor",
    "open_session",
    "run_command",
    "run_management",
]
