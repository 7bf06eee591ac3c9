# SPDX-License-Identifier: Apache-2.0
"""The example of the reference runs as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.source import ROOT

PAGE = ROOT / "docs/reference/testing-target.md"
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_example_runs_on_both_loops(tmp_path: Path) -> None:
    (example,) = [code for code in CODE.findall(PAGE.read_text()) if "pytest_plugins" in code]
    path = tmp_path / "test_example.py"
    path.write_text(example)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout
