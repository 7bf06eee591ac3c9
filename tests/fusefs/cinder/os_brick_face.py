# SPDX-License-Identifier: Apache-2.0
"""os-brick's base class and factory, imported past the warnings of the libraries it brings."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from os_brick.initiator import connector as factory
    from os_brick.initiator.connectors.iscsi import ISCSIConnector
    from os_brick.initiator.initiator_connector import InitiatorConnector

__all__ = ["ISCSIConnector", "InitiatorConnector", "factory"]
