# SPDX-License-Identifier: Apache-2.0
"""Commands, options, exit statuses and sentences of the documents are those of the program."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fusefs.cli.app import COMMANDS, cli
from fusefs.cli.exit_codes import TABLE
from tests.support.source import ROOT, name_of, project_files, python_files, text_of

REFERENCE = ROOT / "docs/reference/cli.md"
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(pyscsi-init [^`]+)`")
CALL = re.compile(r"(?<!-n )\bpyscsi-init(?= [a-z-])")
"""Not the namespace, nor an image or a plugin of that name."""
BRACKETS = re.compile(r"\[[^\]]*\]|[\[\]]")
ENDS_OF_A_COMMAND = frozenset(("|", "||", "&&", "&", ";", ">", "|-"))
SYMPTOMS = (
    "howto/troubleshooting", "howto/chap", "howto/discover", "howto/docker-troubleshooting",
    "howto/kubernetes-troubleshooting", "howto/openstack-cinder", "howto/storage-network",
    "reference/docker-plugin",
)  # fmt: skip
OF_OTHERS = frozenset(
    ("Operation not permitted", "volume create", "volume rm", "--docker [SOCKET]", "--mounts DIR")
)
"""In the first column, and none of ours: what the kernel says, commands of others, options."""
NO_VALUES = re.compile(
    r"\.\.\.|[:;()]|\b[A-Z]+\b|'[^']*'|\b\d[\d.:]*h?\b|/run/netns/x|\b[xy]\b"
    r"|No such file or directory|\bext4\b|(?<=option )portal|(?= in network)"
)


def documents() -> list[Path]:
    return [
        path for path in project_files() if path.suffix == ".md" and path.name != "CHANGELOG.md"
    ]


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Each call of our command that a document shows: where, and its words."""
    for page in documents():
        text = text_of(page)
        shown = [line for word, block in BLOCK.findall(text) if not word for line in _lines(block)]
        for line in [*shown, *INLINE.findall(text)]:
            for call in CALL.split(line)[1:]:
                yield name_of(page), _words(call)


def _lines(block: str) -> list[str]:
    return [line for line in block.replace("\\\n", " ").splitlines() if "pyscsi-init " in line]


def _words(call: str) -> list[str]:
    lexer = shlex.shlex(BRACKETS.sub(" ", call), punctuation_chars="|&;>", posix=True)
    lexer.whitespace_split, lexer.commenters, lexer.quotes = True, "#", '"'
    words = []
    try:
        for word in lexer:
            if word in ENDS_OF_A_COMMAND:
                break
            words.append(word)
    except ValueError:  # a quotation that a page leaves open
        pass
    return words


def spellings_of(name: str) -> list[set[str]]:
    """The options of a command that its help shows, each with all its names."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    shown = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    return [{*each.opts, *each.secondary_opts} for each in shown] + [{"-h", "--help"}]


def options_of(name: str) -> set[str]:
    return set().union(*spellings_of(name))


def test_every_command_and_option_that_is_shown_exists() -> None:
    wrong, asked = [], set()
    for place, (command, *words) in command_lines():
        if command in COMMANDS:
            asked.add(command)
            given = (word.partition("=")[0] for word in words)
            options = [word for word in given if re.fullmatch(r"--[a-z][a-z-]*|-[a-zA-Z]", word)]
            unknown = sorted(set(options) - options_of(command))
            wrong += [f"{place}: pyscsi-init {command} has no {option}" for option in unknown]
        elif re.fullmatch(r"[a-z][a-z-]+", command):
            wrong.append(f"{place}: there is no pyscsi-init {command}")
    assert not wrong, "\n".join(wrong)
    assert asked == set(COMMANDS) - {"demo"}, "what the pages show has become less"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_told_in_the_reference(name: str) -> None:
    told = set(re.findall(r"(?<![\w-])-{1,2}[a-z][a-z-]*", REFERENCE.read_text()))
    assert [each for each in spellings_of(name) if not each & told] == []


def test_every_option_that_is_told_exists() -> None:
    known = {option for name in COMMANDS for option in options_of(name)} | {"--version"}
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", REFERENCE.read_text()))
    assert told - known == set()


def test_the_exit_statuses_are_those_of_the_program() -> None:
    told = re.findall(r"^\| (\d+) \| (.+) \|$", REFERENCE.read_text(), re.MULTILINE)
    assert told == [(str(row.status), row.meaning) for row in TABLE]


def test_commands_with_json_are_as_told() -> None:
    without = [name for name in COMMANDS if "--json" not in options_of(name)]
    (told,) = re.findall(r"commands that print data: all but (.+?)\.", REFERENCE.read_text())
    assert sorted(re.findall(r"`([a-z-]+)`", told)) == sorted(without)


def test_every_sentence_that_is_explained_is_one() -> None:
    """What stands `so` in the first column of the tables of symptoms is in the code, but for its
    values; a class is one of the errors."""
    code = "".join(text_of(path) for path in python_files("fusefs", "pyscsi_init"))
    code = re.sub(r"\{[^{}\n]*\}", "", re.sub(r'"\s*\n\s*f?"', "", code))
    wrong, asked = [], 0
    for page in SYMPTOMS:
        for line in (ROOT / f"docs/{page}.md").read_text().splitlines():
            first = re.sub(r'(?<!`)"[^|`]*"', "", line.split("|")[1]) if line[:2] == "| " else ""
            for sentence in re.findall(r"`([^`]+)`", first):
                is_class = re.fullmatch(r"(?:[A-Z][a-z]+){2,}", sentence)
                if sentence in OF_OTHERS or not (" " in sentence or is_class):
                    continue
                for part in NO_VALUES.split(sentence):
                    asked += 1
                    if part.strip() not in code:
                        wrong.append(f"{page}: {sentence}: {part.strip()!r}")
    assert not wrong, "\n".join(wrong)
    assert asked > 150
