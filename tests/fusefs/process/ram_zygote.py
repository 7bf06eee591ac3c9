# SPDX-License-Identifier: Apache-2.0
"""A zygote whose workers serve a RAM disk in the place of a LUN: everything but the session.

The disk lies in a file, so that a successor finds what its predecessor wrote.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fusefs.process import birth, zygote
from fusefs.process.messages import StartDocument
from fusefs.process.takeover import Predecessor
from pyscsi_init import BlockDevice, RamDevice
from pyscsi_init.transport import Reactor
