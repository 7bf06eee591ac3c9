# SPDX-License-Identifier: Apache-2.0
"""The processes: one worker for each volume, how it is started, and how it is asked.

A worker carries the data path of one volume and nothing else, so that no command, no front door and
no other volume can take it down. This folder knows processes, pipes and sockets; what a volume is
put together from, and in which order, is the business of ``fusefs.volume``.
"""
