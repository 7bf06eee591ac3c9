# SPDX-License-Identifier: Apache-2.0
"""The composition: a LUN becomes a block device file, a loop device, a file system, a directory.

``VolumeManager`` is what every front door calls. It has no memory of its own: each call starts from
the state files and the kernel's tables, so any process may do the next step, after any crash.
"""
