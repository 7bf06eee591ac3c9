# SPDX-License-Identifier: Apache-2.0
"""Which volumes there are, asked by somebody who may not know."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from fusefs.errors import NotAllowed
from fusefs.volume import listing
from fusefs.volume.paths import Directories
from fusefs.volume.state import load_state


@pytest.mark.root
def test_another_user_is_told_that_it_takes_root() -> None:
    with tempfile.TemporaryDirectory() as name:  # 0700, as the run directory is
        (Path(name) / "volumes").mkdir()
        directories = Directories(name, name)
        assert listing.names(directories) == []
        os.seteuid(65534)
        try:
            with pytest.raises(NotAllowed, match=r"root's alone; run it as root"):
                listing.names(directories)
            with pytest.raises(NotAllowed, match=r"/volumes is root's alone; run it as root"):
                load_state(directories.volume("data").state)
        finally:
            os.seteuid(0)
