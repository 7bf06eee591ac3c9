# SPDX-License-Identifier: Apache-2.0
"""iSCSI initiator in pure Python."""
