# SPDX-License-Identifier: Apache-2.0
"""Volumes on iSCSI: from a block device to a directory in a container."""
