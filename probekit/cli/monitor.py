"""`probekit monitor`: a table of labelled texts to a monitor that `probekit score` reads."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from probekit.cli import options
from probekit.cli.output import command_line, require_folder

if TYPE_CHECKING:
    from probekit.data import Dataset


def monitor(
    file: options.File,
    text: options.Text,
    label: Annotated[str, typer.Option("--label", "-l", help="Column with the classes.")],
    model: options.Model,
    out: options.Out,
    false_alarms: Annotated[
        float,
        typer.Option(
            help="Share of texts without the alarm class that may raise an alarm. 0.05 takes 57 such texts, 0.01 takes 297."
        ),
    ] = 0.05,
    alarm_class: Annotated[
        str | None,
        typer.Option(help="The class that raises the alarm. Default: of two, the second (1, true, or the later name)."),
    ] = None,
    group: options.Group = None,
    missing: options.MissingOption = options.Missing.refuse,
    site: options.Sites = None,
    blocks: options.Blocks = None,
    pool: options.PoolOption = options.Pool.last,
    seed: options.Seed = 0,
    controls: Annotated[bool, typer.Option("--controls/--no-controls", help="Shuffled labels, words alone.")] = True,
) -> None:
    """Make a monitor from labelled texts: a probe, its threshold for a rate of false alarms, and what it does on new texts.

    A third of the texts fits the probe and chooses its layer, a third sets the threshold, a third is reported on. OUT is the
    folder that `probekit score --probe` reads, with a page, `report.html`.

    **Examples**

    - `probekit monitor texts.csv --text text --label toxic --model ./SmolLM2-135M -o monitor/`

    - `probekit monitor mails.csv -t body -l kind --alarm-class complaint --group sender --false-alarms 0.01 -m gpt2 -o monitor/`
    """
    from probekit.cli.loading import load
    from probekit.data import read_csv
    from probekit.models import SHIPPED
    from probekit.monitoring import make

    require_folder(out)
    if model in SHIPPED:
        raise ValueError(
            f"{model} reads the tokens of its own world, not text: probekit.monitoring.make takes its sequences"
        )
    data = labelled(read_csv(file, text=text, label=label, group=group, missing=missing.value), label)
    made = make(
        load(model, blocks),
        data,
        label,
        sites=site,
        pool=pool.value,
        false_alarms=false_alarms,
        seed=seed,
        alarm_class=alarm_class,
        controls=controls,
    )
    made.save(out)
    page = made.save_page(out / "report.html", command=command_line())
    typer.echo(f"{made.summary()}\n\npage    {page}\nmonitor {out.resolve()}")


def labelled(data: Dataset, label: str) -> Dataset:
    """The texts that have a label; a note says how many are left out."""
    labels = data.label_set(label)
    known = labels.values[:, 0] >= 0  # classes; numbers are refused later
    if labels.kind == "continuous" or known.all():
        return data
    warnings.warn(f"{int((~known).sum())} of {len(data)} texts have no {label!r} and are left out", stacklevel=2)
    return data.take(known)
