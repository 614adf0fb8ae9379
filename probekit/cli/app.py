"""The commands put together."""

from __future__ import annotations

import typer

from probekit.cli import (
    board,
    capture,
    demo,
    edit,
    loading,
    models,
    monitor,
    probe,
    report,
    sae,
    sae_names,
    score,
    sweep,
)

app = typer.Typer(
    name="probekit",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    callback=loading.choose,
    pretty_exceptions_enable=False,
    help="Read and edit what language models compute: where a concept can be read, with the controls beside it, and what "
    "changes when it is edited.\n\n"
    "Start with `probekit demo`, then `probekit probe --help` for a CSV of your own.",
)

assert sae_names  # which adds its commands to those of sae
for command in (
    probe.probe,
    capture.capture,
    sweep.sweep,
    report.report,
    board.board,
    models.models,
    demo.demo,
    monitor.monitor,
    score.score,
):
    app.command()(command)
app.add_typer(sae.sae, name="sae")
app.add_typer(edit.edit, name="edit")
