# SPDX-License-Identifier: Apache-2.0
"""The real zygote, whose workers tell in their log about every import and every file opened while
they serve.

Serving begins with the ``ready`` document and ends when the service does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from fusefs.process import birth, ready, worker, zygote

serving = False
pid = os.getpid()


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    # A child that the worker forks serves nothing and may open what it likes.
    if serving and os.getpid() == pid and event in ("open", "import"):
        os.write(2, f"AUDIT {event} {arguments[0]!r}\n".encode())


class AuditedReady(ready.Ready):
    def ok(self, facts: Mapping[str, Any]) -> None:
        global serving
        super().ok(facts)
        serving = True


class AuditedWorker(worker.Worker):
    async def _end_of_service(self, *arguments: Any) -> None:
        global serving
        serving = False
        await super()._end_of_service(*arguments)


if __name__ == "__main__":
    sys.addaudithook(hook)
    birth.Ready = AuditedReady  # type: ignore[misc]
    birth.Worker = AuditedWorker  # type: ignore[misc]
    zygote.main(birth.main)
