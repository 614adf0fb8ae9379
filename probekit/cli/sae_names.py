"""`probekit sae name | compare | page`: what the features of an SAE stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probekit.cli import options
from probekit.cli.sae import Data, Features, Folder, Labels, Store, labels_of, opened, require_parent, sae


@sae.command()
def name(
    folder: Folder,
    store: Store,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON lines to write: a name a line.")],
    data: Annotated[Path | None, typer.Option("--data", "-d", help="The table the store was captured from.")] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", help="Column of the table with the text.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="Column of labels to name features with; repeat.")
    ] = None,
    group: options.Group = None,
    missing: options.MissingOption = options.Missing.refuse,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model the store was captured from: names features by words, and reads the texts for --endpoint.",
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words/--no-words", help="Whether --model names features by words, too.")
    ] = True,
    encoder: Annotated[
        Path | None,
        typer.Option("--encoder", help="A sentence-transformers folder, so that words are alike by meaning."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            help="Address of a server that speaks OpenAI's chat completions, a local one too (http://localhost:8000/v1): its "
            "model explains features. Needs --endpoint-model, --cache and --model.",
        ),
    ] = None,
    endpoint_model: Annotated[
        str | None, typer.Option("--endpoint-model", help="The name of the model at the endpoint.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            help="Folder where every answer of the endpoint and every vector of --encoder is kept; the same command goes on from it.",
        ),
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option("--key-env", help="Environment variable with the endpoint's key. Default: no key is sent."),
    ] = None,
    most: Annotated[
        int, typer.Option("--most", min=1, help="Features the endpoint is asked about; about 40 questions each.")
    ] = 50,
    features: Features = None,
    least_precision: Annotated[
        float, typer.Option("--least-precision", help="Held-out precision that a name from labels must reach.")
    ] = 0.8,
    least_recall: Annotated[
        float, typer.Option("--least-recall", help="Held-out recall that a name from labels must reach.")
    ] = 0.2,
    least_accuracy: Annotated[
        float,
        typer.Option("--least-accuracy", help="Held-out balanced accuracy that a word or an explanation must reach."),
    ] = 0.7,
    seed: options.Seed = 0,
) -> None:
    """Name features by labels (or up to three of them together), by words, by a language model, or all, with held-out evidence.

    **Examples**

    - `probekit sae name sae/ store/ --data reviews.csv --text text --label sentiment -o names.jsonl`

    - `probekit sae name sae/ store/ --model gpt2 -o names.jsonl`

    - `probekit sae name sae/ store/ --model gpt2 --endpoint http://localhost:8000/v1 --endpoint-model NAME --cache answers/ -o names.jsonl`
    """
    import saes
    from probekit.cli.loading import load

    if label and (data is None or text is None):
        raise ValueError("labels come from a table: give --data and --text, too")
    if not label and model is None:
        raise ValueError("nothing to name features with: give --label (with --data and --text), --model, or both")
    if endpoint is not None and (model is None or endpoint_model is None or cache is None):
        raise ValueError(
            "--endpoint also needs --endpoint-model, --cache and --model (whose tokenizer reads the texts)"
        )
    asked = (
        saes.LanguageModel(endpoint, endpoint_model, cache, api_key_env=key_env, most=most)
        if endpoint is not None and endpoint_model is not None and cache is not None
        else None
    )
    if not label and asked is None and not words:
        raise ValueError("nothing to name features with: --no-words leaves nothing, give --label or --endpoint")
    require_parent(out)
    sae, activations = saes.load(folder), opened(store)
    labels = labels_of(activations, data, text, label or [], group, missing) if data and text else None
    if group is not None and labels is None:
        raise ValueError("--group names a column of a table: give --data and --text, too")
    read = None if model is None else load(model)
    meaning = None if encoder is None else saes.sentence_encoder(encoder, cache=cache)
    names = saes.name(
        sae,
        saes.encode(sae, activations, out=features),
        labels,
        vocabulary=saes.Vocabulary(encoder=meaning, model=read) if read is not None and words else None,
        language_model=asked,
        decode=read,
        least_precision=least_precision,
        least_recall=least_recall,
        least_accuracy=least_accuracy,
        seed=seed,
    )
    names.save(out)
    for one in names:
        found = one.evidence
        typer.echo(
            f"{one.feature}\t{one.text}\tbalanced accuracy {found.balanced_accuracy:.2f}\t"
            f"precision {found.precision:.2f}\trecall {found.recall:.2f}"
        )
    typer.echo(f"{names}\n{out.resolve()}")


@sae.command()
def compare(
    folder: Folder,
    store: Store,
    probes: Annotated[Path, typer.Option("--probes", help="Folder of a sweep with probes at the SAE's site.")],
    data: Data,
    text: options.Text,
    label: Labels,
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV to write: a row a label.")],
    group: options.Group = None,
    missing: options.MissingOption = options.Missing.refuse,
    page: Annotated[
        Path | None, typer.Option("--page", help="HTML file to write: verdicts, figures and the table.")
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option("--names", "-n", help="Names that `probekit sae name` wrote: are stable features the named ones?"),
    ] = None,
    other: Annotated[
        list[Path] | None,
        typer.Option("--other", help="SAE of the same site and width from another seed, for stability; repeat."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The model the store was captured from: do edits along feature and probe do the same?"
        ),
    ] = None,
    features: Features = None,
    seed: options.Seed = 0,
) -> None:
    """Hold an SAE's features against probes: which tells each label better, and do their directions agree?

    **Example**

    - `probekit sae compare sae/ store/ --probes out/sweep/ -d reviews.csv -t text -l sentiment -o compared.csv --page compared.html`
    """
    import saes
    from probekit.cli.loading import load
    from probekit.cli.output import command_line
    from probekit.probes import SweepResult

    require_parent(out)
    sae, activations = saes.load(folder), opened(store)
    labels = labels_of(activations, data, text, label, group, missing)
    encoded = saes.encode(sae, activations, out=features)
    found = saes.compare(
        SweepResult.load(probes), sae, activations, labels, features=encoded, seed=seed,
        names=None if names is None else saes.Names.load(names),
        others=[saes.load(one) for one in other or ()],
        model=None if model is None else load(model), data=None if model is None else labels,
    )  # fmt: skip
    found.to_frame().to_csv(out, index=False)
    typer.echo(f"{found.summary()}\n{out.resolve()}")
    if page is not None:
        typer.echo(f"page    {found.save_page(page, command=command_line())}")


@sae.command()
def page(
    folder: Folder,
    store: Store,
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")],
    names: Annotated[
        Path | None, typer.Option("--names", "-n", help="Names that `probekit sae name` wrote. Default: no names.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model the store was captured from: shows the text around rows, and what features do to the logits.",
        ),
    ] = None,
    probes: Annotated[
        Path | None,
        typer.Option("--probes", help="Folder of a sweep with probes at the SAE's site: shows the nearest one."),
    ] = None,
    features: Features = None,
    most: Annotated[int, typer.Option("--most", min=0, help="Cards of features without a name, at most.")] = 500,
    title: Annotated[str | None, typer.Option("--title", help="Title of the page.")] = None,
) -> None:
    """Write the page of an SAE's features: search, names with their evidence, and a card a feature.

    A card shows the texts a feature fires on, with its activation at every token; texts where its nearest features fire
    and it does not; its activations; the tokens it promotes; and its nearest features. The store must hold every token
    (`--pool all`). It is one file that opens in a browser without a network.

    **Examples**

    - `probekit sae page sae/ store/ --model gpt2 -o features.html`

    - `probekit sae page sae/ store/ --names names.jsonl --model gpt2 --probes out/sweep/ -o features.html`
    """
    import saes
    from probekit.cli.loading import load
    from probekit.cli.output import command_line
    from probekit.probes import SweepResult

    activations, read = opened(store), saes.load(folder)
    found = None if names is None else saes.Names.load(names)
    sweep = None if probes is None else SweepResult.load(probes)
    written = saes.save_page(
        out,
        saes.encode(read, activations, out=features),
        read,
        names=found,
        model=None if model is None else load(model),
        probes=sweep,
        activations=activations,
        most=most,
        title=title,
        command=command_line(),
    )
    typer.echo(f"page    {written.resolve()}")
