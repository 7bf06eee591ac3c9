# SPDX-License-Identifier: Apache-2.0
"""Exit statuses: complete for both error trees, distinct, and told in the help."""

from __future__ import annotations

import errno
import inspect

import click
import pytest

import fusefs.errors as volume
import pyscsi_init.errors as iscsi
from fusefs.cli import exit_codes
from fusefs.cli.exit_codes import TABLE, is_expected, status_of, table_text


def error_classes() -> list[type[Exception]]:
    return [
        found
        for module in (volume, iscsi)
        for found in vars(module).values()
        if inspect.isclass(found)
        and issubclass(found, Exception)
        and found.__module__ == module.__name__
    ]


def bare(error: type[Exception]) -> Exception:
    """An instance as it comes out of a worker: made without its constructor."""
    return error.__new__(error)


@pytest.mark.parametrize("error", error_classes(), ids=lambda error: error.__name__)
def test_each_error_has_a_status_of_its_kind(error: type[Exception]) -> None:
    roots = (iscsi.IscsiError, iscsi.LocalProtocolError)
    if error in roots:
        assert status_of(bare(error)) == exit_codes.FAILED
    else:
        assert status_of(bare(error)) not in (exit_codes.OK, exit_codes.FAILED)
        assert is_expected(bare(error))


def test_statuses_are_distinct_and_in_order() -> None:
    statuses = [row.status for row in TABLE]
    assert statuses == sorted(set(statuses))
    listed = [error for row in TABLE for error in row.errors]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (click.UsageError("x"), 2),
        (iscsi.SecretError("x", None, "y"), 2),
        (PermissionError(errno.EACCES, "x"), 3),
        (iscsi.ConnectError("x"), 4),
        (iscsi.TargetNotFound("x", status_class=2, status_detail=3), 5),
        (iscsi.AuthenticationFailed("x", status_class=2, status_detail=1), 6),
        (iscsi.NotABlockDevice("x"), 7),
        (iscsi.HeaderDigestError("x"), 8),
        (iscsi.SessionFailed("x"), 9),
        (OSError(errno.EIO, "x"), 9),
        (volume.MountBusy("x"), 10),
        (OSError(errno.EBUSY, "x"), 10),
        (volume.AlreadyAttached("x", other="y"), 11),
        (volume.NoSuchVolume("x"), 12),
        (volume.BlankNotFormatted("x"), 13),
        (volume.MountFailed("x", "y", errno.EINVAL), 13),
        (volume.MountFailed("x", "y", errno.EPERM), 3),
        (iscsi.ReadOnlyDevice("x"), 14),
        (OSError(errno.EROFS, "x"), 14),
        (iscsi.LoginTimeout("x"), 15),
        (volume.Timeout("x", 1.0), 15),
        (OSError(errno.ENOSPC, "x"), 16),
        (exit_codes.TooSmall("x"), 16),
        (volume.WorkerFailed("x", "y"), 17),
        (ValueError("x"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_status_of(error: Exception, status: int) -> None:
    assert status_of(error) == status


def test_the_table_tells_every_status() -> None:
    text = table_text()
    assert all(f"{row.status:>5}  {row.meaning}" in text for row in TABLE)
