# SPDX-License-Identifier: Apache-2.0
"""SLPv2, the Service Location Protocol (RFC 2608), as RFC 4018 uses it to find iSCSI targets.

messages.py and urls.py have the bytes and what they mean, machine.py the repetitions: those do no
I/O. agent.py moves the datagrams.
"""

from .agent import SLP_PORT, discover_slp
from .machine import SlpSettings
from .urls import TargetUrl, parse_target_url

__all__ = ["SLP_PORT", "SlpSettings", "TargetUrl", "discover_slp", "parse_target_url"]
