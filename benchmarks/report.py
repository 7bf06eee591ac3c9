# SPDX-License-Identifier: Apache-2.0
"""The report of a run: one HTML file that needs nothing else, and its plots as PNG files beside it.

    python -m benchmarks.report RESULT.json [--output DIR]

The page has its style, plots (SVG), their PNG versions and all samples in it, and no script.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
from markupsafe import Markup

from .criteria import Verdict, judge
from .display import columns_of, number
from .drawing import Plot
from .model import OURS, Run
from .plots import plots

PNG_DPI = 144
LEVELS = {
    "library": (
        "Library",
        "Reads of one LUN: pyscsi-init bench beside iscsi-perf of libiscsi.",
    ),
    "fuse": (
        "FUSE and loop device",
        (
            "fio on a loop device over a FUSE file. The parallel writes of qemu-storage-daemon "
            "corrupt each other: its write figures are those of a broken peer. The other two write "
            "correctly."
        ),
    ),
    "ext4": (
        "File system",
        (
            "ext4 on the loop device, beside the C peers that write correctly: fio on a file, and "
            "pgbench (scale 10, 4 clients)."
        ),
    ),
    "null": (
        "Ceilings",
        (
            "A device of memory behind each of our two FUSE channels, with no target at all. "
            "“ours” is the native channel."
        ),
    ),
    "nat": (
        "A session inside a container",
        "The library; “ours” is in a container, behind Docker's bridge and NAT.",
    ),
    "nat-mount": (
        "A volume mounted by a container",
        "fio on ext4; “ours” is mounted inside the container, its session behind bridge and NAT.",
    ),
    "many": ("Many volumes", "Attached one after the other, measured at rest and all together."),
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plot on the page."""

    name: str
    title: str
    svg: Markup
    png: str
    """A data URI."""


@dataclass(frozen=True, slots=True)
class Section:
    """A level on the page."""

    title: str
    text: str
    headings: list[str]
    rows: list[list[str]]
    drawn: list[Drawn]


def write_report(run: Run, path: Path) -> list[Path]:
    """Write ``path`` (HTML) and the plots into a directory beside it; returns all files."""
    directory = path.with_suffix("")
    files = [path]

    def draw(plot: Plot) -> Drawn:
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{re.sub(r'[^a-z0-9-]+', '-', plot.name.lower())}.png"
        png, svg = io.BytesIO(), io.StringIO()
        plot.figure.savefig(png, format="png", dpi=PNG_DPI)
        plot.figure.savefig(svg, format="svg", metadata={"Date": None})
        plt.close(plot.figure)
        file.write_bytes(png.getvalue())
        files.append(file)
        # What stands before the element belongs to a file of its own. The text is matplotlib's.
        inline = svg.getvalue()[svg.getvalue().index("<svg") :]
        return Drawn(file.name, plot.title, Markup(inline), _data("image/png", png.getvalue()))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    saved = io.StringIO()
    run.dump(saved)
    page = environment.get_template("report.html.j2").render(
        run=run,
        machine=_facts(run.machine),
        options=_facts(run.options),
        verdicts=[_verdict_row(verdict) for verdict in judge(run)],
        drawn=[draw(plot) for plot in plots(run)],
        sections=[
            Section(*LEVELS[level], *_table(run, level), [draw(plot) for plot in plots(run, level)])
            for level in run.levels()
        ],
        samples=_data("application/json", saved.getvalue().encode()),
        name=path.stem,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return files


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values; what is grouped is written in one line."""
    found = []
    for name, value in facts.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key} {each}" for key, each in value.items())
        elif isinstance(value, list):
            text = ", ".join(map(str, value))
        else:
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
        if text not in ("", "False"):
            found.append((name.replace("_mib", ", MiB"), text))
    return found


def _verdict_row(verdict: Verdict) -> dict[str, str]:
    row = verdict.criterion
    sign = "≤ " if row.lower_is_better else "≥ "
    return {
        "level": row.level,
        "case": row.text,
        "against": row.peer_text + (f": {verdict.peer}" if len(row.peers) > 1 else ""),
        "ratio": number(verdict.ratio, 2),
        "range": verdict.range_text,
        "at_least": f"{sign}{row.at_least:g}",
        "aim": f"{sign}{row.aim:g}",
        "word": verdict.word,
    }


def _table(run: Run, level: str) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: medians of every case and subject."""
    columns = columns_of(run, level)
    headings = ["case", "subject", *(heading for _, heading, _ in columns)]
    if has_peers := run.subjects(level) != [OURS]:
        headings.append("ours / peer")
    rows = []
    for case in run.cases[level]:
        for index, subject in enumerate(run.subjects(level, case)):
            values = [run.median(level, case, subject, name) for name, _, _ in columns]
            of = "iops" if run.values(level, case, subject, "iops") else "tps"
            ratio = run.ratio(level, case, OURS, subject, of)
            figures = [number(v, digits) for v, (_, _, digits) in zip(values, columns, strict=True)]
            if has_peers:
                figures.append("" if subject == OURS else number(ratio, 2))
            rows.append(["" if index else case, subject, *figures])
    return headings, rows


def main(arguments: list[str] | None = None) -> int:
    """Draw the report of a result that was saved before."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("result", type=Path, metavar="RESULT.json")
    parser.add_argument("--output", type=Path, metavar="DIR", help="[default: beside the result]")
    options = parser.parse_args(arguments)
    directory = options.output or options.result.parent
    files = write_report(Run.load(options.result), directory / f"{options.result.stem}.html")
    sys.stdout.write("".join(f"{file}\n" for file in files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
