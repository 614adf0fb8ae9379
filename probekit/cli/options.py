"""Arguments and options that several commands share, each described once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from probekit.data import Kind


class Pool(StrEnum):
    """How a text becomes one activation vector a site."""

    last = "last"
    mean = "mean"


class Family(StrEnum):
    """Probe families a sweep can fit."""

    logistic = "logistic"
    ridge = "ridge"
    lda = "lda"
    difference_in_means = "difference_in_means"


class Missing(StrEnum):
    """What to do with a row that has no label."""

    refuse = "refuse"
    undefined = "undefined"


class Precision(StrEnum):
    """Number formats for stored activations."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Engine(StrEnum):
    """Where the work is done."""

    local = "local"
    ray = "ray"


File = Annotated[Path, typer.Argument(help="Table of texts: .csv, .tsv or .jsonl, also with .zst behind it.")]
Model = Annotated[
    str, typer.Option("--model", "-m", help="A shipped name, a folder, a .gguf file, or a Hugging Face Hub id.")
]
Blocks = Annotated[
    str | None,
    typer.Option(
        "--blocks", help="For an architecture that is not known: the path of its list of blocks, such as transformer.h."
    ),
]
Text = Annotated[str, typer.Option("--text", "-t", help="Column that holds the text.")]
Labels = Annotated[
    list[str],
    typer.Option(
        "--label",
        "-l",
        help="Column to read from the activations; repeat for several. Binary, multiclass and continuous columns are "
        "told apart, and the result says which.",
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        help="COLUMN=KIND, where a label column is meant otherwise than it looks; KIND is binary, multiclass or continuous "
        "(ratings as numbers: stars=continuous). Repeat for several.",
    ),
]
MissingOption = Annotated[
    Missing,
    typer.Option(
        "--missing", help="Rows without a label: an error, or left out of training and scores for that label."
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        "-g",
        help="Rows with the same value in this column (author, topic) stay together: never split between training, validation "
        "and test.",
    ),
]
Sites = Annotated[
    list[str] | None,
    typer.Option("--site", "-s", help="Site to read, repeat for several. Default: the residual stream at every layer."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")]
PoolOption = Annotated[Pool, typer.Option("--pool", help="Last token, or mean over the text's own tokens.")]
FamilyOption = Annotated[Family, typer.Option("--probe", "-p", help="Probe family.")]
Grid = Annotated[
    str | None,
    typer.Option(
        "--grid",
        help="Penalties to choose from on validation, as numbers with commas between: C of logistic (0.01,0.1,1), alpha of "
        "ridge, shrinkage of lda. Default: the family's own.",
    ),
]
MaxRows = Annotated[
    int,
    typer.Option(
        "--max-rows", min=8, help="Use at most this many training rows (validation: a quarter of it; test: half)."
    ),
]
Draws = Annotated[int, typer.Option("--n-boot", min=100, help="Bootstrap draws behind the intervals.")]
Engines = Annotated[
    Engine,
    typer.Option(
        "--engine",
        help="`ray`: by the workers of a Ray cluster that runs already (RAY_ADDRESS says where); OUT must be a folder that all its "
        "machines see.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same numbers.")]
Controls = Annotated[
    bool,
    typer.Option("--controls/--no-controls", help="Majority, shuffled labels, control task, random weights, surface."),
]


def grid_of(given: str | None) -> list[float] | None:
    """`"0.1,1"` as `[0.1, 1.0]`."""
    if given is None:
        return None
    try:
        return [float(value) for value in given.split(",")]
    except ValueError:
        raise ValueError(f"--grid {given!r}: write numbers with commas between, such as 0.01,0.1,1") from None


def kinds_of(given: list[str] | None) -> dict[str, Kind]:
    """`["stars=continuous"]` as `{"stars": "continuous"}`."""
    kinds: dict[str, Kind] = {}
    for one in given or []:
        column, equals, kind = one.rpartition("=")
        if not equals or not column or kind not in get_args(Kind):
            raise ValueError(f"--kind {one!r}: write COLUMN=KIND, where KIND is {', '.join(get_args(Kind))}")
        kinds[column] = cast(Kind, kind)
    return kinds
