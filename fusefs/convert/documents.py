# SPDX-License-Identifier: Apache-2.0
"""A file of YAML documents, of which some are changed and all others stay as they are, to the byte.

A document that is changed is written by ruamel.yaml's round trip, which keeps comments, order and
quotes; the indentation is the document's own. A comment that stood on something that is gone is
put in front of its document, so that none is lost.
"""

from __future__ import annotations

import collections
import io
import re
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import DocumentEndEvent, DocumentStartEvent, ScalarEvent

from fusefs.errors import InvalidSpec

# Lines are never folded anew: what was one line is one line.
_WIDTH = 1 << 20
_MARKER = re.compile(r"\A((?:[ \t]*(?:[#%][^\n]*)?\r?\n)*---[ \t]*(?:#[^\n]*)?\r?\n)")
_SEQUENCE = re.compile(
    r"^( *)[^\s#-][^\n]*:[ \t]*(?:#[^\n]*)?\n(?:[ \t]*(?:#[^\n]*)?\n)*( *)- ", re.M
)
_MAPPING = re.compile(r"^( *)[^\s#-][^\n]*:[ \t]*(?:#[^\n]*)?\n( +)[^\s#-]", re.M)
_COMMENT = re.compile(r"(?:(?<=\s)|\A)#[^\n]*")


@dataclass(slots=True)
class Document:
    """One document of a file: its text, and what it says."""

    number: int
    text: str
    content: Any

    def rewritten(self) -> str:
        """The text of ``content`` as it is now."""
        marker = _MARKER.match(self.text)
        head = marker[1] if marker else ""
        before = self.text.replace("\r\n", "\n")
        body = dump(self.content, before)
        missing = _comments(before) - _comments(head + body)
        kept = "".join(f"{text}\n" for text in missing.elements())
        return head + self.like(kept + body)

    def like(self, text: str) -> str:
        """``text`` with the line ends that this document has."""
        return text.replace("\n", "\r\n") if "\r\n" in _body(self.text) else text


def load(text: str, file: str) -> list[Document]:
    """The documents of a file.

    Raises:
        InvalidSpec: it is no YAML; the error names document and line.
    """
    starts: list[int] = []
    end = number = 0
    try:
        for event in _yaml().parse(io.StringIO(text)):
            if isinstance(event, DocumentStartEvent):
                number += 1
                starts.append(end)  # directives come before the event
            elif isinstance(event, DocumentEndEvent):
                end = event.end_mark.index
                if event.explicit:
                    end = text.find("\n", end) + 1 or len(text)
    except YAMLError as error:
        raise _broken(file, number or 1, error, text) from None
    except RecursionError:
        raise _too_deep(file, number) from None
    documents = []
    for number, start in enumerate(starts, 1):
        end = starts[number] if number < len(starts) else len(text)
        piece = text[start:end]
        try:
            content = _yaml().load(_body(piece).replace("\r\n", "\n"))
        except YAMLError as error:
            line = text.count("\n", 0, start) + piece.count("\n") - _body(piece).count("\n")
            raise _broken(file, number, error, text, line) from None
        except RecursionError:
            raise _too_deep(file, number) from None
        documents.append(Document(number, piece, content))
    return documents


def dump(content: Any, like: str = "") -> str:
    """YAML, indented as ``like`` is."""
    yaml = _yaml()
    mapping = _usual(
        (len(match[2]) - len(match[1]) for match in _MAPPING.finditer(like)), default=2
    )
    offset = _usual(
        (len(match[2]) - len(match[1]) for match in _SEQUENCE.finditer(like)), default=0
    )
    yaml.indent(mapping=mapping, sequence=offset + 2, offset=offset)
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def join(pieces: list[str]) -> str:
    """The pieces as documents of one file."""
    out = ""
    for piece in pieces:
        newline = "\r\n" if "\r\n" in out[-2:] + piece else "\n"
        if out and not out.endswith("\n"):
            out += newline
        if out and not _MARKER.match(piece) and not piece.startswith("---"):
            out += f"...{newline}" if piece.startswith("%") else f"---{newline}"
        out += piece
    return out


def replace_key(mapping: CommentedMap, old: str, new: str, value: Any) -> None:
    """Put ``new: value`` where ``old`` was, with the comment that stood there."""
    position = list(mapping).index(old)
    comment = mapping.ca.items.pop(old, None)
    del mapping[old]
    mapping.insert(position, new, value)
    if comment is not None:
        mapping.ca.items[new] = comment


def carry_comment(source: Any, key: str, to: CommentedMap, new_key: str) -> None:
    """Take the comment of ``key`` along."""
    items = getattr(getattr(source, "ca", None), "items", {})
    if key in items and new_key in to:
        to.ca.items[new_key] = items[key]


def _yaml() -> YAML:
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = _WIDTH
    return yaml


def _body(piece: str) -> str:
    marker = _MARKER.match(piece)
    return piece[marker.end() :] if marker else piece


def _usual(widths: Any, *, default: int) -> int:
    """What most lines have."""
    counted = collections.Counter(width for width in widths if 0 <= width <= 8)
    return counted.most_common(1)[0][0] if counted else default


def _comments(text: str) -> collections.Counter[str]:
    """The comments of a text: what begins with # outside of every scalar."""
    plain, end = "", 0
    for event in _yaml().parse(io.StringIO(text)):
        if isinstance(event, ScalarEvent):
            plain += text[end : event.start_mark.index] + "_"
            # A block scalar ends where the next token begins, or after its last line.
            end = event.end_mark.index
    plain += text[end:]
    return collections.Counter(match[0].rstrip() for match in _COMMENT.finditer(plain))


def _too_deep(file: str, number: int) -> InvalidSpec:
    return InvalidSpec(f"{file}, document {number}", None, "is nested too deeply")


def _broken(file: str, number: int, error: YAMLError, text: str, line: int = 0) -> InvalidSpec:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    # The text on a key that is there twice repeats both values: they may be a Secret's.
    problem = str(getattr(error, "problem", None) or "").partition(" with value ")[0].splitlines()
    where = f", line {mark.line + 1 + line}" if mark is not None else ""
    remedy = ""
    if "{{" in text:
        remedy = "it looks like a template: render it first (helm template)"
    return InvalidSpec(
        f"{file}, document {number}{where}",
        None,
        f"is no YAML ({problem[0]})" if problem else "is no YAML",
        remedy=remedy,
    )
