# SPDX-License-Identifier: Apache-2.0
"""The command: says where it listens, serves, and stops when it is told."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pyscsi_init.errors import ConfigurationError
from pyscsi_init.names import Portal
from pyscsi_init.testing.__main__ import main, make_disk, parse_size
from tests.pyscsi_init.testing.raw_initiator import connected, logged_in, read_10, write_10
from tests.pyscsi_init.testing.serving import serving


@pytest.mark.anyio
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_serves_and_stops(tmp_path: Path, end: signal.Signals, backend: str) -> None:
    disk = tmp_path / "disk.img"
    names = ["iqn.2024-01.example:one", "iqn.2024-01.example:two"]
    arguments = ["--target", names[0], "--lun", "0=ram:1M", "--lun", f"1={disk}:1M"]
    arguments += ["--target", names[1], "--backend", backend]
    with serving(*arguments, end=end) as ready:
        assert ready["targets"] == {names[0]: [0, 1], names[1]: [0]}
        portal = Portal.parse(ready["portal"])
        async with logged_in(portal, names[0]) as initiator:
            answer = await initiator.execute(write_10(3, 1), lun=1, write=b"f" * 512)
            assert answer.status == 0
    assert disk.read_bytes()[3 * 512 : 4 * 512] == b"f" * 512


@pytest.mark.anyio
async def test_options(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef\n")
    with serving(
        *("--chap-user", "host", "--chap-secret-file", str(secret), "--host", "::1"),
        *("--read-only", "--block-size", "4096", "--unit-attention-on-login"),
    ) as ready:
        portal = Portal.parse(ready["portal"])
        (name,) = ready["targets"]
        async with connected(portal) as initiator:
            assert (await initiator.login(name)).status_class == 2
        async with logged_in(portal, name, chap=("host", b"0123456789abcdef")) as initiator:
            assert (await initiator.execute(read_10(0, 1), read=4096)).code == (6, 0x29, 0)
            assert (await initiator.execute(read_10(0, 1), read=4096)).data == bytes(4096)
            answer = await initiator.execute(write_10(0, 1), write=bytes(4096))
            assert answer.code == (7, 0x27, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lun", "0"], "is not of the form"),
        (["--lun", "0=ram:many"], "is no size"),
        (["--lun", "0=/nonexistent/disk"], "cannot be opened"),
        (["--target", "not a name"], "not a name"),
        (["--chap-user", "host"], "needs --chap-secret-file"),
        (["--chap-user", "h", "--chap-secret-file", "/nonexistent"], "cannot be read"),
        (["--host", "192.0.2.1"], "cannot be listened on"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert words in errors
    assert errors.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "--target" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("64M", 64 << 20), ("1g", 1 << 30), ("2KiB", 2048)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_path_with_a_colon_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "disk:1M"
    path.write_bytes(bytes(512))
    disk = make_disk(str(path), block_size=512, read_only=False, thin=False)
    assert disk.size == 512
    disk.close()


def test_no_size() -> None:
    with pytest.raises(ConfigurationError):
        parse_size("-1")
