"""`probekit board`: many tasks, every layer, every family of probes, one model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from probekit.cli import options
from probekit.cli.output import command_line, require_folder


class Setting(StrEnum):
    """What varies."""

    normal = "normal"
    scarcity = "scarcity"
    imbalance = "imbalance"
    noise = "noise"
    ood = "ood"


class Compute(StrEnum):
    """Formats the model may compute in."""

    bfloat16 = "bfloat16"


def board(
    source: Annotated[
        list[str],
        typer.Argument(
            help="`sae-probes` (that package must be installed), a folder of tables, or tables: .csv, .tsv, .jsonl, also .zst. "
            "`NAME_OOD.csv` beside `NAME.csv` is its test on texts from elsewhere."
        ),
    ],
    model: options.Model,
    out: options.Out,
    setting: Annotated[
        list[Setting] | None, typer.Option("--setting", help="Beside `normal`; repeat for several.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only these tasks, by name; repeat for several.")
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            "--family",
            help="Families of probes; repeat for several: difference_in_means, lda, ridge, logistic, elastic_net, k_sparse, mlp, "
            "kernel_ridge, words. Default: the linear ones and words.",
        ),
    ] = None,
    longest: Annotated[
        float | None, typer.Option("--longest", help="Leave out tasks whose texts have more tokens in the mean.")
    ] = None,
    text: Annotated[str, typer.Option("--text", "-t", help="Column that holds the text.")] = "prompt",
    label: Annotated[str, typer.Option("--label", "-l", help="Column that holds the label.")] = "target",
    group: options.Group = None,
    site: options.Sites = None,
    train: Annotated[int, typer.Option("--train", min=16, help="Texts of a task to train on, at most.")] = 1024,
    test: Annotated[int, typer.Option("--test", min=8, help="Texts of a task to test on, at most.")] = 300,
    compute: Annotated[
        Compute | None,
        typer.Option(
            "--compute", help="Run the model's matrix products in this format: faster where the processor has it."
        ),
    ] = None,
    dtype: Annotated[options.Precision, typer.Option("--dtype", help="Stored precision.")] = options.Precision.float16,
    n_boot: options.Draws = 1000,
    seed: options.Seed = 0,
    engine: options.Engines = options.Engine.local,
) -> None:
    """Compare families of probes over many tasks and all layers, with ranks, intervals and a page.

    Each task is a table with a text and a label a row (`prompt` and `target` unless named otherwise); 0/1 and words are classes, other
    numbers are numbers. The same command goes on where it stopped. A task that fails is said at the end, and the command exits with 1.

    **Examples**

    - `probekit board my_tasks/ -m gpt2 -o out/`

    - `probekit board sae-probes -m MODEL --setting scarcity --setting ood --longest 128 --compute bfloat16 -o out/`
    """
    from probekit.cli.loading import load
    from probekit.leaderboard import board as run_board
    from probekit.leaderboard.families import DEFAULT

    require_folder(out)
    found = run_board(
        source[0] if len(source) == 1 else source,
        load(model),
        settings=[one.value for one in setting or ()],
        sites=site,
        families=family or DEFAULT,
        tasks=task,
        longest=longest,
        text=text,
        label=label,
        group=group,
        train=train,
        test=test,
        out=out,
        dtype=dtype.value,
        compute_dtype=None if compute is None else compute.value,
        n_boot=n_boot,
        seed=seed,
        engine=engine.value,
    )
    page = found.save_page(out / "board.html", command=command_line())
    found.to_frame().to_csv(out / "board.csv", index=False)
    typer.echo(f"{found.summary()}\n\npage    {page}\nfigures {(out / 'board.csv').resolve()}")
    if found.failures:
        typer.echo(f"{len(found.failures)} tasks failed (above); the same command tries them again", err=True)
        raise typer.Exit(1)
