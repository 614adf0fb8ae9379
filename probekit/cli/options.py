"""Arguments and options that several commands share, each described once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


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


class Precision(StrEnum):
    """Number formats for stored activations."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


File = Annotated[Path, typer.Argument(help="Table of texts: .csv, .tsv or .jsonl, also with .zst behind it.")]
Model = Annotated[
    str, typer.Option("--model", "-m", help="A shipped name, a folder, a .gguf file, or a Hugging Face Hub id.")
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
Group = Annotated[
    str | None,
    typer.Option("--group", "-g", help="Column whose values must not be split between train and test (author, topic)."),
]
Sites = Annotated[
    list[str] | None,
    typer.Option("--site", "-s", help="Site to read, repeat for several. Default: the residual stream at every layer."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")]
PoolOption = Annotated[Pool, typer.Option("--pool", help="Last token, or mean over the text's tokens.")]
FamilyOption = Annotated[Family, typer.Option("--probe", "-p", help="Probe family.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same numbers.")]
Controls = Annotated[
    bool,
    typer.Option("--controls/--no-controls", help="Majority, shuffled labels, control task, random weights, surface."),
]
