"""Blocks (text, tables, figures, boards) and the page that holds them: one HTML file that opens without a network.

    Page("Title").text("What this shows.").figure(fig, "A caption").table(frame).write("page.html")

Text is text: whatever it contains is escaped. A block is the name of a macro in `blocks.html.j2` and what it is given.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit.files import write_whole
from probekit.report.style import DARK, template

if TYPE_CHECKING:
    import jinja2
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Block:
    """A piece of a page: the macro that draws it and what the macro is given."""

    macro: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """The block alone in a notebook, in a frame of its own so that its style stays inside."""
        import html

        document = Page("").add(self).html(bare=True)
        return f'<iframe srcdoc="{html.escape(document)}" style="width:100%;height:640px;border:0"></iframe>'


def heading(text: str, level: int = 2, *, at: str | None = None) -> Block:
    """A heading; of level 2, it is in the page's contents, under the name `at` (`anchor(text)` unless given)."""
    return Block("heading", {"text": text, "level": level, "anchor": at or anchor(text) if level == 2 else ""})


def text(words: str, *, strong: bool = False) -> Block:
    """Paragraphs of plain text; an empty line starts a new one."""
    return Block("text", {"paragraphs": [p.strip() for p in words.split("\n\n") if p.strip()], "strong": strong})


def notes(items: Sequence[str], empty: str = "") -> Block:
    """A list of short remarks."""
    return Block("notes", {"items": [str(i) for i in items], "empty": empty})


def figure(fig: go.Figure, caption: str = "") -> Block:
    """A plotly figure, drawn when it comes into view."""
    drawing = json.loads(fig.to_json())
    drawing["layout"].pop("template", None)  # the page has it once, light and dark
    return Block("figure", {"drawing": drawing, "height": drawing["layout"].get("height", 420), "caption": caption})


def table(frame: pd.DataFrame, caption: str = "", *, strong: Sequence[int] = ()) -> Block:
    """Columns of a data frame, not its index. Floats get three digits, numbers stand right, rows `strong` are marked."""
    columns = [
        {"name": str(c), "number": bool(len(frame)) and all(_is_number_like(v) for v in frame[c])}
        for c in frame.columns
    ]
    rows = [[_cell(v) for v in row] for row in frame.itertuples(index=False, name=None)]
    return Block("table", {"columns": columns, "rows": rows, "caption": caption, "strong": list(strong)})


def tiles(items: Sequence[Mapping[str, str]]) -> Block:
    """Large figures side by side: `name`, `value`, `detail`, and optionally `href`, of each."""
    return Block("tiles", {"items": [dict(i) for i in items]})


def code(words: str, label: str = "Copy") -> Block:
    """Text to copy, with a button that does so."""
    return Block("code", {"text": words, "label": label})


def facts(values: Mapping[str, Any], caption: str = "") -> Block:
    """A list of names and values; nested values are written as JSON."""
    return Block("facts", {"items": [(str(k), _fact(v)) for k, v in values.items()], "caption": caption})


def details(summary: str, *blocks: Block) -> Block:
    """Blocks that are folded away until asked for."""
    return Block("details", {"summary": summary, "blocks": list(blocks)})


def columns(*blocks: Block | None) -> Block:
    """Blocks side by side where the page is wide enough, below each other where it is not."""
    return Block("columns", {"blocks": [b for b in blocks if b is not None]})


def tabs(named: Mapping[str, Block]) -> Block:
    """One of several blocks at a time, chosen by name."""
    return Block("tabs", {"names": list(named), "blocks": list(named.values())})


def scripted(data: Any, script: str, *, style: str = "", label: str = "") -> Block:
    """A part of the page that a script of its own draws.

    Args:
        data: What it draws, as JSON values (no NaN).
        script: Plain JavaScript of this package. It finds its element as `document.currentScript.previousElementSibling`, and
            in it a `script[type='application/json']` with the data. It must put texts into the page as text.
        style: CSS.
        label: What this part is, for screen readers.
    """
    dumped = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Block("scripted", {"json": _within_script(dumped), "script": script, "style": style, "label": label})


class Page:
    """A page under construction. Every method adds a block and returns the page."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self.blocks: list[Block] = []

    def add(self, *blocks: Block | None) -> Page:
        self.blocks += [b for b in blocks if b is not None]
        return self

    def heading(self, words: str, level: int = 2) -> Page:
        return self.add(heading(words, level))

    def text(self, words: str) -> Page:
        return self.add(text(words))

    def figure(self, fig: go.Figure, caption: str = "") -> Page:
        return self.add(figure(fig, caption))

    def table(self, frame: pd.DataFrame, caption: str = "") -> Page:
        return self.add(table(frame, caption))

    def html(self, *, bare: bool = False) -> str:
        """The whole document. The same blocks give the same text. `bare` leaves out the page's own head line."""
        here = Path(__file__).parent
        kinds = set(_macros(self.blocks))
        return (
            _environment()
            .get_template("page.html.j2")
            .render(
                page=self,
                bare=bare,
                css=(here / "page.css").read_text(encoding="utf-8"),
                script=(here / "page.js").read_text(encoding="utf-8"),
                plotly=_plotly_script() if "figure" in kinds else "",
                style={"light": template(), "dark": template(dark=True), "colors": DARK},
                contents=[b.data for b in self.blocks if b.macro == "heading" and b.data["level"] == 2],
            )
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to `path` (a folder gets `index.html`); the file is whole or is not there."""
        path = Path(path)
        if path.is_dir():
            path = path / "index.html"
        write_whole(path, self.html())
        return path

    def _repr_html_(self) -> str:
        return Block("group", {"blocks": self.blocks})._repr_html_()


def anchor(words: str) -> str:
    """A name for links within the page, different for different words."""
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    return slug if slug and slug.replace("-", " ") == words else f"{slug[:40]}-{zlib.crc32(words.encode()):08x}"


def _macros(blocks: Sequence[Block]) -> list[str]:
    return [m for b in blocks for m in (b.macro, *_macros(b.data.get("blocks", ())))]


def _within_script(dumped: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return dumped.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _plotly_script() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _is_number_like(value: object) -> bool:
    return isinstance(value, (int, float)) or bool(re.match(r"^[–−-]?$|^(×\s)?[+−-]?[\d.,]+( %)?(\s.*)?$", str(value)))


def _cell(value: object) -> str:
    if value is None or value != value:  # NaN
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _fact(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
