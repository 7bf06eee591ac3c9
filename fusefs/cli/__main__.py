# SPDX-License-Identifier: Apache-2.0
"""``python -m fusefs.cli``: the same as ``pyscsi-init``, where no script was installed."""

from __future__ import annotations

import sys

from fusefs.cli import main

if __name__ == "__main__":
    sys.exit(main())
