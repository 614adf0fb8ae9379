"""`probekit models`: what ships, and what a model offers to read."""

from __future__ import annotations

from typing import Annotated

import typer

from probekit.cli import options


def models(
    source: Annotated[
        str | None,
        typer.Argument(help="A shipped name, a folder, a .gguf file, or a Hub id. Default: list what ships."),
    ] = None,
    blocks: options.Blocks = None,
) -> None:
    """List the shipped models, or the sites of one model.

    **Examples**

    - `probekit models`

    - `probekit models othello-mini`

    - `probekit models ./SmolLM2-135M`
    """
    from probekit.cli.loading import load
    from probekit.models import SHIPPED

    if source is None:
        for name, folder in SHIPPED.items():
            typer.echo(f"{name:16} {folder}")
        typer.echo("\n`probekit models NAME` lists the sites of one.")
        return
    model = load(source, blocks)
    parameters = sum(p.numel() for p in model.hf.parameters())
    typer.echo(f"{model.name}: {model.n_layers} layers, width {model.d_model}, {parameters:,} parameters")
    typer.echo(
        f"context {model.context} tokens; tokenizer: {'yes' if model.tokenizer else 'none (token ids only)'}; "
        f"{str(model.dtype).removeprefix('torch.')} on {model.device}"
    )
    typer.echo(f"fingerprint {model.fingerprint}\nsites:")
    first = [name for name in model.sites if not name.startswith("blocks.") or name.startswith("blocks.0.")]
    for name in first:
        typer.echo(f"  {name.replace('blocks.0.', 'blocks.{layer}.'):36} width {model.site(name).width}")
    typer.echo(
        f"  with {{layer}} from 0 to {model.n_layers - 1}; a sweep reads the residual stream: {len(model.stream_sites)} sites"
    )
