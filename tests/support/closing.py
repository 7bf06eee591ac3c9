# SPDX-License-Identifier: Apache-2.0
"""``with`` for what is begun and has to be ended: processes, namespaces, captures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closing(ABC):
    """Leaving the block closes it, and so does a beginning that fails half way."""

    @abstractmethod
    def close(self) -> None:
        """End it, as far as it was begun."""

    @abstractmethod
    def begin(self) -> None:
        """What entering the block does."""

    def __enter__(self) -> Self:
        try:
            self.begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
