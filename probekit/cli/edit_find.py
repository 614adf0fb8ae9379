"""`probekit edit find`: a direction at every layer, whether it can be trusted, and what to do with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from probekit.cli import options
from probekit.cli.output import require_folder

if TYPE_CHECKING:
    from probekit.probes import SweepResult


class Method(StrEnum):
    """How a direction is found."""

    difference = "difference"
    probe = "probe"
    pca = "pca"


def find(
    file: options.File,
    text: options.Text,
    label: Annotated[str, typer.Option("--label", "-l", help="Column with two classes.")],
    model: options.Model,
    out: options.Out,
    method: Annotated[
        Method,
        typer.Option(
            "--method", help="Difference of the class means; the probe's weights; the first principal component."
        ),
    ] = Method.difference,
    class_: Annotated[str | None, typer.Option("--class", help="The class to point to. Default: the second.")] = None,
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            "-s",
            help="Where. Default: of the middle half of the layers, the one where a probe reads the label best on validation.",
        ),
    ] = None,
    group: options.Group = None,
    missing: options.MissingOption = options.Missing.refuse,
    pool: options.PoolOption = options.Pool.mean,
    seed: options.Seed = 0,
) -> None:
    """Find a direction, at every layer, and say whether it can be trusted.

    Writes OUT/direction.safetensors (at the best layer, or at --site), OUT/layers/ (one a layer, for `search`), and the sweep that
    chose the layer with its page. Says how well two halves of the texts agree on the direction, beside labels that were shuffled.

    **Example**

    - `probekit edit find tweets.csv -t tweet -l toxic -m ./SmolLM2-135M -o toxic/`
    """
    from probekit import surgery
    from probekit.activations import capture
    from probekit.cli.loading import load
    from probekit.data import read_csv
    from probekit.probes import sweep

    require_folder(out)
    data = read_csv(file, text=text, label=[label], group=group, missing=missing.value)
    labels = data.label_set(label)
    if labels.kind != "binary" or len(labels.targets) != 1:
        raise ValueError(f"column {label!r} is {labels.kind}: a direction lies between two classes")
    if class_ is not None and class_ not in labels.classes:
        raise ValueError(f"no class {class_!r} in column {label!r}; it has {', '.join(labels.classes)}")
    to = class_ or labels.classes[1]
    away = next(c for c in labels.classes if c != to)
    loaded = load(model)
    if site is not None and site not in loaded.stream_sites:
        loaded.site(site)
        raise ValueError(
            f"--site {site} is no site of the residual stream: {loaded.stream_sites[0]} to {loaded.stream_sites[-1]}"
        )
    pooled = pool.value
    if pool is options.Pool.mean:
        # In many models the first token is an attention sink, its activations a hundred times as long as others: a mean with it
        # tells how long a text is.
        data = replace(data, spans={"after the first word": _after_first_word(data.texts or ())})
        pooled = "span:after the first word"
        typer.echo("texts are averaged from their second word on: the first token is often an attention sink", err=True)
    store = capture(loaded, data, pool=pooled, out=out / "store")
    result = sweep(store, data, label, seed=seed)
    result.save(out / "sweep")
    result.save_page(out / "sweep" / "report.html")
    best = site or _middle_best(result, label, loaded.stream_sites)
    trust = surgery.split_half_reliability(store, labels, site=best, classes=(away, to), groups=data.groups, seed=seed)
    for name in loaded.stream_sites:
        try:
            if method is Method.probe:
                one = result.direction(label, class_=to, site=name)
            elif method is Method.difference:
                one = surgery.difference_of_means(store, labels, site=name, classes=(away, to))
            else:
                (one,) = surgery.principal_components(store, site=name, count=1)
        except ValueError as error:
            if name == best:
                raise
            typer.echo(f"note: no direction at {name}: {error}", err=True)
            continue
        if name == best and method is not Method.pca:
            one = replace(one, provenance={**one.provenance, "reliability": str(trust)})
        one.save(out / "layers" / f"{name}.safetensors")
        if name == best:
            one.save(out / "direction.safetensors")
    where = out / "direction.safetensors"
    doubt = words_do_as_well(result, label, best)
    if doubt:
        again = shlex.join(
            ["probekit", "edit", "find", "OTHER.csv", "-t", text, "-l", label, "-m", model, "-o", f"{out}-again"]
        )
        doubt = (
            f"{doubt}\nSo the direction may stand for those words and not for what {label!r} means, and an edit along it may do no more than "
            "swap words. Find it again on texts of both classes that use the same words (pairs that differ in their meaning only; --group keeps "
            f"a pair together):\n  {again}\nIf the words are what you want to change, go on:\n\n"
        )  # fmt: skip
    edited = out / "edit"
    following = shlex.join(["probekit", "edit", "apply", str(where), "-m", model, "--how", "steer", "--strength", "2", "-o", str(edited)])  # fmt: skip
    typer.echo(
        f"{result.summary()}\n\n{trust}\n\n{doubt}direction  {where.resolve()}\n           at {best}, from {away!r} to {to!r}\n"
        f"next       {following}\n           (2 standard deviations towards {to!r}; -2 goes the other way)"
    )


def words_do_as_well(result: SweepResult, label: str, site: str) -> str:
    """What to say where the surface control, which sees the words alone, reads a label as well as the probe at a site; else empty.

    As well: no worse than the lower end of the probe's interval, where that interval lies above a constant guess.
    """
    metric = result.headline(label)
    frame = result.to_frame()
    rows = frame[
        (frame.label_set == label) & (frame.metric == metric) & (frame.data == "test") & (frame.target == "mean")
    ]
    surface, guess = (float(rows[rows.source == source].value.iloc[0]) for source in ("surface", "majority"))
    probe = rows[(rows.source == "model") & (rows.site == site)].iloc[0]
    if not surface >= probe.low > guess:
        return ""
    return (
        f"note: the words alone tell {label!r} as well as the model's activations do: {metric.replace('_', ' ')} {surface:.3f} of the surface "
        f"control (n-grams, without the model), {probe.value:.3f} ({probe.low:.3f} to {probe.high:.3f}) of the probe at {site}."
    )


def _after_first_word(texts: Sequence[str]) -> np.ndarray:
    """`[text, 2]` characters from the second word on; the whole of a text of one word."""
    starts = [
        len(text) - len(text.lstrip()) + (len(text.split(None, 1)[0]) if len(text.split(None, 1)) > 1 else 0)
        for text in texts
    ]
    return np.array([(start, len(text)) for start, text in zip(starts, texts, strict=True)])


def _middle_best(result: SweepResult, label: str, stream: Sequence[str]) -> str:
    """Of the middle half of the layers, the one that a probe reads best on validation.

    Towards the embedding the words themselves are read, and an edit could only swap words; at the end nothing follows an edit.
    """
    quarter = len(stream) // 4
    middle = [site for site in stream[quarter : len(stream) - quarter] if site in result.sites]
    scores = result.validation[label][result.headline(label)]
    return max(middle, key=lambda site: float(np.nan_to_num(scores[result.sites.index(site)], nan=-np.inf)))
