# SPDX-License-Identifier: Apache-2.0
"""Errors travel: out of worker processes, into copies, with their fields and their text."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import pyscsi_init
from pyscsi_init.errors import InvalidUrl, IscsiError


def kinds(kind: type[IscsiError] = IscsiError) -> Iterator[type[IscsiError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == IscsiError.__module__:
            yield from kinds(below)


def made(kind: type[IscsiError]) -> IscsiError:
    """One of them, with a different value in each field."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    parameters = list(inspect.signature(kind.__init__).parameters.items())[1:]
    for number, (name, parameter) in enumerate(parameters, 1):
        if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
            positional = positional or ["what happened"]
        elif parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = number
        else:
            positional.append(f"{name} {number}")
    return kind(*positional, **named)


@pytest.mark.parametrize("kind", list(dict.fromkeys(kinds())), ids=lambda kind: kind.__name__)
def test_copied_and_pickled(kind: type[IscsiError]) -> None:
    error = made(kind)
    error.add_note("seen from here")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_one_comes_home_from_a_worker_process() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(InvalidUrl) as caught,
    ):
        pool.submit(pyscsi_init.parse_url, "iscsi://host/none/1").result(60)
    assert "iqn." in caught.value.reason
