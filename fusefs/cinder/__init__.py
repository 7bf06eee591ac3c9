# SPDX-License-Identifier: Apache-2.0
"""OpenStack Cinder: from its ``connection_info`` to a block device, in the shape of its connectors.

Only shapes live here; what happens to a volume is in ``fusefs.volume``.
"""
