# SPDX-License-Identifier: Apache-2.0
"""Helpers that several test folders share: real servers, real faults, and what a machine must have.

Nothing here knows the code under test, so an error in it cannot hide in its own tests.
"""
