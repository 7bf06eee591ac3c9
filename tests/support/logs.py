# SPDX-License-Identifier: Apache-2.0
"""A warning in the log is a failure of the test, unless the test says that it must come."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

WATCHED = ("pyscsi_init", "fusefs")


@dataclass(slots=True)
class _Expectation:
    pattern: str
    logger: str
    level: int
    at_least: int
    seen: int = 0

    def takes(self, record: logging.LogRecord) -> bool:
        name = record.name
        return (
            (name == self.logger or name.startswith(f"{self.logger}.") or not self.logger)
            and (self.level == logging.NOTSET or record.levelno == self.level)
            and re.search(self.pattern, record.getMessage()) is not None
        )


class ExpectLogs(logging.Handler):
    """The records at WARNING and above, and what the test declared about them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []
        self._expected: list[_Expectation] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def __call__(
        self, pattern: str = "", *, logger: str = "", level: int = logging.NOTSET, at_least: int = 1
    ) -> None:
        """A record that matches may come, and must come ``at_least`` times."""
        self._expected.append(_Expectation(pattern, logger, level, at_least))

    def check(self) -> None:
        """Fail on an undeclared record, and on a declaration that nothing matched."""
        problems = []
        for record in self.records:
            matching = [each for each in self._expected if each.takes(record)]
            for each in matching:
                each.seen += 1
            if not matching:
                problems.append(
                    f"undeclared {record.levelname} of {record.name}: {record.getMessage()}"
                )
        problems += [
            f"declared but seen {each.seen} of {each.at_least} times: {each.pattern!r}"
            for each in self._expected
            if each.seen < each.at_least
        ]
        if problems:
            pytest.fail("\n".join(problems), pytrace=False)


@contextlib.contextmanager
def watching() -> Iterator[ExpectLogs]:
    """Collect what the project's loggers say; :meth:`ExpectLogs.check` is the caller's to call."""
    handler = ExpectLogs()
    loggers = [logging.getLogger(name) for name in WATCHED]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
