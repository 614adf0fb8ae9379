"""`probekit sae train | health | floor | score`: sparse autoencoders on a store that is already there."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probekit.cli import options

if TYPE_CHECKING:
    from probekit.activations import ActivationStore
    from probekit.data import Dataset

sae = typer.Typer(
    no_args_is_help=True,
    help="Train sparse autoencoders on an activation store, and see what their features stand for.\n\n"
    "First `probekit capture ... --pool all -o store/`, then `probekit sae train store/ ...`.",
)

Store = Annotated[Path, typer.Argument(help="Activation store, as `probekit capture` writes it.")]
Folder = Annotated[str, typer.Argument(help="Folder of an SAE, as SAELens saves it, or RELEASE/SAE_ID.")]
Data = Annotated[Path, typer.Option("--data", "-d", help="The table the store was captured from.")]
Labels = Annotated[
    list[str], typer.Option("--label", "-l", help="Column of classes, two or more; repeat for several columns.")
]
Features = Annotated[
    Path | None,
    typer.Option("--features", help="Folder for the encoded features, so that a later command need not encode again."),
]


class Kind(StrEnum):
    """SAELens's architectures."""

    standard = "standard"
    topk = "topk"
    batchtopk = "batchtopk"
    jumprelu = "jumprelu"
    gated = "gated"
    matryoshka = "matryoshka"


@sae.command()
def train(
    store: Store,
    site: Annotated[list[str], typer.Option("--site", "-s", help="Site to train on; repeat for several.")],
    width: Annotated[int, typer.Option("--width", "-w", min=1, help="Number of features.")],
    out: options.Out,
    kind: Annotated[Kind, typer.Option("--kind", help="Architecture.")] = Kind.topk,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            help="NAME=VALUE of SAELens's training configuration (k=32, l1_coefficient=5); repeat. A TopK SAE has k=100 unless given.",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", min=1, help="Rows to train on, repeats counted. Default: four epochs, 1 M at least."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows a step.")] = 2048,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate. Default: by the width.")] = None,
    held_out: Annotated[float, typer.Option("--held-out", help="Share of the sequences not trained on.")] = 0.1,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", help="Of the first weights; repeat for several. Default: 0.")
    ] = None,
) -> None:
    """Train an SAE through SAELens; a run that was stopped goes on when the same command is given again.

    Several sites or seeds are trained in one pass over the store, each in OUT/SITE/seed-N.

    **Example**

    - `probekit sae train store/ -s blocks.6.hook_resid_post -w 4096 --kind topk --option k=32 -o sae/`
    """
    import saes

    activations = opened(store)
    trained = saes.train_many(
        activations, sites=site, width=width, kind=kind.value, out=out, rows=rows, batch=batch, lr=lr, held_out=held_out,
        seeds=seed or [0], **_options(option),
    )  # fmt: skip
    for (where, number), one in trained.items():
        folder = out if len(trained) == 1 else out / where / f"seed-{number}"
        typer.echo(f"{saes.health(one, activations)}\n{folder.resolve()}")


@sae.command()
def health(folder: Folder, store: Store) -> None:
    """Sparsity, reconstruction, dead and dense features on the sequences that training held out."""
    import saes

    typer.echo(saes.health(saes.load(folder), opened(store)))


@sae.command()
def floor(
    folder: Folder,
    store: Store,
    data: Data,
    text: options.Text,
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for `store` and `sae` of the random model.")],
    seed: options.Seed = 0,
) -> None:
    """Do the same with random weights: capture the same rows of the same architecture, and train an SAE by the same recipe.

    What `score` and `name` find in OUT/sae and OUT/store is no sign of learning.

    **Example**

    - `probekit sae floor sae/ store/ -d reviews.csv -t text -m gpt2 -o floor/`
    """
    import saes
    from probekit.cli.loading import load
    from probekit.data import read_csv

    found = saes.floor(
        saes.load(folder), opened(store), load(model), read_csv(data, text=text, label=[]), out=out, seed=seed
    )
    typer.echo(
        f"{saes.health(found.sae, found.activations)}\nstore   {out.resolve() / 'store'}\nsae     {out.resolve() / 'sae'}"
    )


@sae.command()
def score(
    folder: Folder,
    store: Store,
    data: Data,
    text: options.Text,
    label: Labels,
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV to write: each label with its best feature.")],
    group: options.Group = None,
    missing: options.MissingOption = options.Missing.refuse,
    features: Features = None,
    seed: options.Seed = 0,
) -> None:
    """Score every feature against every label; thresholds from one half of the sequences, figures from the other."""
    import saes

    activations = opened(store)
    labels = labels_of(activations, data, text, label, group, missing)
    found = saes.score(saes.encode(saes.load(folder), activations, out=features), labels, seed=seed)
    frame = found.to_frame().sort_values("f1", ascending=False)
    require_parent(out)
    frame.to_csv(out, index=False)
    value, low, high = found.coverage()
    typer.echo(f"{found}; coverage {value:.3f} ({low:.3f} to {high:.3f})\n{out.resolve()}")


def opened(store: Path) -> ActivationStore:
    """A store whose files are all whole."""
    from probekit.activations import ActivationStore

    opened = ActivationStore.open(store)
    opened.verify()
    return opened


def labels_of(
    store: ActivationStore, data: Path, text: str, label: list[str], group: str | None, missing: options.Missing
) -> Dataset:
    """A table with labels and groups, which must be the one the store was captured from."""
    from probekit.data import read_csv

    dataset = read_csv(data, text=text, label=label, group=group, missing=missing.value)
    store.check(data=dataset)
    for name in label:
        if dataset.label_set(name).kind == "continuous":
            raise ValueError(
                f"column {name!r} is continuous: features are scored against classes. Cut it into classes first"
            )
    return dataset


def require_parent(file: Path) -> None:
    if file.is_dir():
        raise ValueError(f"{file} is a folder: name a file")
    file.parent.mkdir(parents=True, exist_ok=True)


def _options(given: list[str] | None) -> dict[str, Any]:
    """`["k=32", "matryoshka_widths=[64, 256]"]` as keyword arguments; values are JSON, or text where they are not."""
    import json

    found: dict[str, Any] = {}
    for one in given or []:
        key, equals, value = one.partition("=")
        if not key or not equals:
            raise ValueError(f"--option {one!r}: write NAME=VALUE, such as k=32")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
