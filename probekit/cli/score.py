"""`probekit score`: texts read by a monitor, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from probekit.cli import options
from probekit.cli.output import command_line

if TYPE_CHECKING:
    from probekit.monitoring import Monitor, Scored


def score(
    file: Annotated[Path, typer.Argument(help="Text file, UTF-8: a text a line. Empty lines are left out.")],
    probe: Annotated[
        Path,
        typer.Option(
            "--probe",
            "-p",
            help="Folder of a monitor, as `probekit monitor` or `Monitor.save` writes it.",
        ),
    ],
    model: options.Model,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML page to write, beside what is printed.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="The whole file is one text.")] = False,
    blocks: options.Blocks = None,
) -> None:
    """Score texts with a fitted monitor: tokens coloured by probability, alarms, and which texts are out of its domain.

    The monitor refuses another model than the one it was fitted on.

    **Examples**

    - `probekit score new.txt --probe monitor/ -m ./model`

    - `probekit score letter.txt --whole --probe monitor/ -m ./model -o page.html`
    """  # fmt: skip
    from probekit.cli.loading import load
    from probekit.monitoring import Monitor

    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    monitor = Monitor.load(probe)
    numbered = list(_texts(file, whole))
    if not numbered:
        raise ValueError(f"{file} holds no text")
    console = Console(soft_wrap=True, highlight=False)
    names = [f"line {number}" if number else file.name for number, _ in numbered]
    shown = _shown(console, monitor, monitor.stream(load(model, blocks), [text for _, text in numbered]), names)
    if out is None:
        for _ in shown:
            pass
    else:
        page = monitor.save_page(out, shown, title=file.name, command=command_line())
    console.print(_legend(monitor))
    if out is not None:
        console.print(f"page  {page}", markup=False)


def _texts(file: Path, whole: bool) -> Iterator[tuple[int, str]]:
    """Texts and their line numbers, from 1; 0 for a whole file."""
    try:
        content = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    lines = [(0, content)] if whole else enumerate(content.split("\n"), 1)
    yield from ((number, line.rstrip("\r")) for number, line in lines if line.strip())


def _shown(console: Console, monitor: Monitor, scored: Iterator[Scored], names: list[str]) -> Iterator[Scored]:
    """Print each text as it comes, and hand it on."""
    alarms = away = count = 0
    for each in scored:
        words = [names[each.index], f"probability {each.probability:.3f}", f"p {each.p_value:.3f}"]
        words += ["cut"] * each.cut
        line = Text(", ".join(words), style="dim")
        if each.alarm:
            line.append("  ALARM", style="bold")
        if each.first_alarm is not None:
            line.append(f"  alarm while streaming at token {each.first_alarm}", style="")
        if each.out_of_domain:
            line.append("  OUT OF DOMAIN", style="bold")
        console.print(line)
        console.print(_coloured(each))
        count, alarms, away = count + 1, alarms + each.alarm, away + each.out_of_domain
        yield each
    console.print(f"\n{alarms} of {count} texts raise the alarm, {away} are out of domain", markup=False)


def _coloured(each: Scored) -> Text:
    """Tokens on a ground from that of the terminal to orange; underlined where the running alarm holds."""
    text = Text()
    for token in each.tokens:
        if token.so_far != token.so_far:  # special tokens before the text
            continue
        style = (
            f"on {_ground(token.probability)} color({16 if token.probability > 0.5 else 231})"
            if token.probability > 0.05
            else ""
        )
        text.append("".join(c if c.isprintable() or c == "\n" else " " for c in token.text), style=f"{style} underline" if token.alarm else style)  # fmt: skip
    return text


def _ground(probability: float) -> str:
    low, high = (40, 30, 20), (255, 160, 30)
    return "rgb({},{},{})".format(*(round(a + (b - a) * probability) for a, b in zip(low, high, strict=True)))


def _legend(monitor: Monitor) -> Text:
    found = monitor.evidence.text
    return Text(
        f"alarm above probability {monitor.probability_at_threshold:.3f}; on texts that had no part in it: false alarms "
        f"{found.false_alarms}, recall {found.recall}",
        style="dim",
    )
