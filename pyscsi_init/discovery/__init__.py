# SPDX-License-Identifier: Apache-2.0
"""Finding targets: SendTargets."""

from .send_targets import DiscoveredTarget, discover, parse_send_targets

__all__ = ["DiscoveredTarget", "discover", "parse_send_targets"]
