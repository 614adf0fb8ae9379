"""`probekit capture`: activations of a table of texts, written to a store."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from probekit.cli import options


class CapturePool(StrEnum):
    """Which activations of a text are kept."""

    all = "all"
    last = "last"
    mean = "mean"


def capture(
    file: options.File,
    text: options.Text,
    model: options.Model,
    out: options.Out,
    site: options.Sites = None,
    blocks: options.Blocks = None,
    pool: Annotated[
        CapturePool,
        typer.Option(
            "--pool",
            help="Every token, the last one, or the mean over the text's own tokens (in Python all is the default).",
        ),
    ] = CapturePool.last,
    every: Annotated[int, typer.Option("--every", min=1, help="With --pool all: keep every k-th token.")] = 1,
    dtype: Annotated[options.Precision, typer.Option("--dtype", help="Stored precision.")] = options.Precision.float32,
    token_budget: Annotated[
        int, typer.Option("--token-budget", min=1, help="Tokens in one batch, padding included.")
    ] = 8192,
    engine: options.Engines = options.Engine.local,
) -> None:
    """Run a model over a table of texts once and keep its activations.

    OUT becomes an activation store: safetensors shards with a checksum each and a manifest that says which model and
    which data they came from. A capture that was stopped goes on where it was when the same command is given again.

    **Examples**

    - `probekit capture statements.csv --text statement --model ./SmolLM2-135M -o store/`

    - `probekit capture book.jsonl -t text -m gpt2 --pool all --every 4 --dtype float16 -s blocks.6.hook_resid_post -o store/`
    """
    from probekit.activations import capture as run_capture
    from probekit.cli.loading import load
    from probekit.data import read_csv

    data = read_csv(file, text=text, label=[])
    store = run_capture(
        load(model, blocks),
        data,
        site,
        out=out,
        pool=pool.value,
        every=every,
        dtype=dtype.value,
        token_budget=token_budget,
        engine=engine.value,
    )
    typer.echo(f"{len(store):,} rows x {len(store.sites)} sites in {out.resolve()}")
