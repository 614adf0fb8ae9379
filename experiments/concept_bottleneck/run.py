"""How many named concepts does it take to read a text's class as well as a dense probe, or a bag of words, reads it?

    python experiments/concept_bottleneck/run.py --model FOLDER_OR_ID_OR_GGUF --data FOLDER --out out/concept_bottleneck

Discover-then-Name (Rao et al. 2024, arXiv 2407.14499): a sparse autoencoder is trained without labels, its features are
named, and a sparse linear head on named features does the task. LaBo (Yang et al. 2023, arXiv 2211.11158): few concepts,
chosen by a submodular utility. FOLDER holds `movie_review_snippets.tsv` (id, mean sentiment, text) and
`hate_offensive_tweets.csv` (columns `class`, `tweet`).

One SAE is trained on the activations of the training texts of both tasks, and its features are named by words of the same
texts; no label and no test text enters either. `--encoder` is a sentence-transformers folder that tells which words are like a
name; without it words are compared by their letters. The activations stay in OUT/stores, the SAE in OUT/sae and the names in
OUT/names.jsonl, and a second run starts from them.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import probekit as pk
import saes
from probekit.data import split_items

TWEET_CLASSES = ("hate", "offensive", "neither")
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def movie_reviews(folder: Path, most: int, seed: int) -> pk.Dataset:
    """Snippets that people found positive or negative by half a point or more, on a scale from -4 to 4."""
    lines = (folder / "movie_review_snippets.tsv").read_text(encoding="utf-8").splitlines()
    rows = [(text, float(rating)) for _, rating, text in (line.split("\t") for line in lines)]
    kept = [(text, "positive" if rating > 0 else "negative") for text, rating in rows if abs(rating) >= 0.5]
    return dataset("movie reviews", "sentiment", kept, most, seed)


def tweets(folder: Path, most: int, seed: int) -> pk.Dataset:
    with (folder / "hate_offensive_tweets.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["tweet"], TWEET_CLASSES[int(row["class"])]) for row in csv.DictReader(file)]
    return dataset("tweets", "class", rows, most, seed)


def dataset(name: str, label: str, rows: Sequence[tuple[str, str]], most: int, seed: int) -> pk.Dataset:
    """Texts drawn at random, with the split that all models here share; equal texts stay in one part."""
    drawn = np.random.default_rng(seed).permutation(len(rows))[:most]
    texts, values = zip(*(rows[i] for i in drawn), strict=True)
    data = pk.Dataset(name, texts=texts, labels={label: pk.LabelSet.from_values(label, values)})
    split = split_items(np.arange(len(data)), data.groups, seed)
    part = np.empty(len(data), dtype="<U5")
    for which in ("train", "valid", "test"):
        part[getattr(split, which)] = which
    return replace(data, split=part)


def without_first_tokens(store: pk.ActivationStore, site: str, kept: np.ndarray | None = None) -> pk.ArrayActivations:
    """The rows of a store but for each text's first token, whose activations are of another order (a norm of 23,000 where
    others have 170), and, given `[sequence]` kept, those of some texts only."""
    rows = store.position > 0
    if kept is not None:
        rows &= kept[store.sequence]
    index = {name: getattr(store, name)[rows] for name in ("sequence", "position", "token", "prefix", "item")}
    return pk.ArrayActivations({site: store.read(site, rows)}, **index)


def joined(parts: Sequence[pk.ArrayActivations], site: str) -> pk.ArrayActivations:
    """Rows of several, their sequences numbered on."""
    after = np.cumsum([0, *(int(part.sequence.max()) + 1 for part in parts)])
    sequence = np.concatenate([part.sequence + first for part, first in zip(parts, after, strict=False)])
    index = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ("position", "token", "prefix")}
    return pk.ArrayActivations({site: np.concatenate([p.read(site) for p in parts])}, sequence, **index)


def names_of(sae: Any, model: pk.Model, rows: pk.ArrayActivations, encoder: Path | None) -> saes.Names:
    """Names that features earned by what training texts say where they fire; a feature that earned none has none."""
    encode = None if encoder is None else saes.sentence_encoder(encoder)
    return saes.name(sae, rows, vocabulary=saes.Vocabulary(encoder=encode, model=model), decode=model)


def bag_of_words(data: pk.Dataset, labels: pk.LabelSet, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`[item]` predictions on `valid` and `test` of logistic regression on TF-IDF of words and pairs of words."""
    texts = {name: [data.texts[i] for i in rows] for name, rows in parts.items()}
    y = {name: labels.values[rows, 0] for name, rows in parts.items()}
    reader = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit(texts["train"])
    x = {name: reader.transform(part) for name, part in texts.items()}
    models = [LogisticRegression(C=C, max_iter=1000).fit(x["train"], y["train"]) for C in (0.3, 1, 3, 10, 30, 100)]
    best = max(models, key=lambda m: m.predict_log_proba(x["valid"])[np.arange(len(y["valid"])), y["valid"]].mean())
    return {name: best.predict(x[name]) for name in ("valid", "test")}


def share(correct: np.ndarray, seed: int = 0) -> str:
    """Mean of `[item]` with its 95 % interval from a bootstrap over items."""
    drawn = np.random.default_rng(seed).integers(len(correct), size=(1000, len(correct)))
    low, high = np.quantile(correct[drawn].mean(1), [0.025, 0.975])
    return f"{correct.mean():.3f} ({low:.3f} to {high:.3f})"


def balanced(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([(predicted[truth == c] == c).mean() for c in np.unique(truth)]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/concept_bottleneck"))
    parser.add_argument("--texts", type=int, default=4000, help="of each task")
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--width", type=int, default=2048, help="features of the SAE")
    parser.add_argument("--k", type=int, default=32, help="features that fire at a row")
    parser.add_argument("--rows", type=int, default=800_000, help="rows to train the SAE on, repeats counted")
    parser.add_argument("--encoder", type=Path, help="a sentence-transformers folder, for the names")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    began = time.perf_counter()
    model = pk.load_model(args.model)
    site = f"blocks.{args.layer}.hook_resid_post"
    tasks = [read(args.data, args.texts, args.seed) for read in (movie_reviews, tweets)]
    stores = [pk.capture(model, data, site, out=args.out / "stores" / data.name.replace(" ", "_")) for data in tasks]
    print(f"{sum(map(len, stores)):,} tokens read after {(time.perf_counter() - began) / 60:.1f} min")
    training = joined(
        [without_first_tokens(store, site, data.split == "train") for store, data in zip(stores, tasks, strict=True)],
        site,
    )
    sae = saes.train(
        training, site=site, width=args.width, kind="topk", k=args.k, batch=512, lr=1e-3, rows=args.rows, seed=args.seed,
        out=args.out / "sae",
    )  # fmt: skip
    print(f"SAE trained on {len(training):,} tokens after {(time.perf_counter() - began) / 60:.1f} min")
    print(saes.health(sae, training))
    if not (args.out / "names.jsonl").exists():
        names_of(sae, model, training, args.encoder).save(args.out / "names.jsonl")
    names = saes.Names.load(args.out / "names.jsonl")
    print(f"{len(names):,} of {args.width:,} features named after {(time.perf_counter() - began) / 60:.1f} min")
    for data, store in zip(tasks, stores, strict=True):
        ask(data, without_first_tokens(store, site), sae, names, args)
    print(f"\n{(time.perf_counter() - began) / 60:.1f} min in all")


def ask(data: pk.Dataset, rows: pk.ArrayActivations, sae: Any, names: saes.Names, args: argparse.Namespace) -> None:
    features = saes.encode(sae, rows)
    options = {"activations": rows, "counts": COUNTS, "seed": args.seed}
    found = saes.bottleneck(features, data, names, **options)
    found.save(args.out / data.name.replace(" ", "_"))
    labels = next(iter(data.labels))
    truth = data.label_set(labels).values[:, 0]
    test = found.parts["test"]
    print(f"\n# {data.name}: {', '.join(f'{len(r):,} {n}' for n, r in found.parts.items())} texts\n")
    words = bag_of_words(data, data.label_set(labels), dict(found.parts))["test"]
    print(figures(found).to_markdown(index=False))
    print(f"\nbag of words: accuracy {share(words == truth[test])}, balanced {balanced(words, truth[test]):.3f}")
    items = found.pooled(features)[test]
    for count in found.heads:
        gap = (words == truth[test]).astype(float) - (found.at(count).predict(items) == truth[test])
        print(f"bag of words - {count} concepts: {share(gap)}")
    print(f"\nconcepts - dense\n\n{found.differences().round(3).to_markdown(index=False)}")
    for title, other in (
        ("all features, named or not", saes.bottleneck(features, data, **options)),
        ("pooled by mean", saes.bottleneck(features, data, names, pool="mean", **options)),
        ("diversity 0 (only what tells the classes)", saes.bottleneck(features, data, names, diversity=0.0, **options)),
        (
            "diversity 1 (only what stands for the others)",
            saes.bottleneck(features, data, names, diversity=1.0, **options),
        ),
    ):
        print(f"\n{title}: {other}\n\n{figures(other, ('concepts',)).to_markdown(index=False)}")
    shown = found.at(min(16, max(found.heads)))
    print(f"\n{shown.count} concepts\n\n{shown.concepts().round(3).to_markdown(index=False)}")
    example = switch_off(shown, items, truth[test], [data.texts[i] for i in test])
    page = args.out / f"{data.name.replace(' ', '_')}.html"
    shown.save_page(page, examples=example, title=f"Concepts of {data.name}", command=shlex.join(["python", *sys.argv]))


def figures(found: saes.Bottleneck, sources: Sequence[str] = ()) -> pd.DataFrame:
    """Accuracy, balanced accuracy and AUROC side by side, with their intervals."""
    columns = {}
    for metric in ("accuracy", "balanced_accuracy", "auroc"):
        frame = found.to_frame(metric)
        frame = frame[frame.source.isin(sources)] if sources else frame
        columns[metric] = [f"{r[metric]:.3f} ({r.low:.3f} to {r.high:.3f})" for _, r in frame.iterrows()]
    chosen = ["*" if r.source == "concepts" and r.concepts == found.count else "" for r in frame.itertuples()]
    counts = ["" if pd.isna(c) else str(c) for c in frame.concepts]
    return pd.DataFrame({"source": frame.source.to_numpy(), "concepts": counts, "chosen": chosen, **columns})


def switch_off(
    found: saes.Bottleneck, items: Any, truth: np.ndarray, texts: Sequence[str]
) -> list[tuple[str, saes.Explanation]]:
    """One prediction that is right and rests on one concept, before and after that concept is switched off; none without one."""
    before = found.predict(items)
    for i in np.flatnonzero(before == truth):
        why = found.explain(items[[i]])
        parts = why.to_frame()
        if parts.empty or not 60 <= len(texts[i]) <= 140:
            continue
        without = found.without(int(parts.feature[0]))
        if without.predict(items[[i]])[0] != before[i]:
            then = without.explain(items[[i]])
            print(f"\n{texts[i]}\n\n{why}\n\nwithout {parts.name[0]!r}: {then}")
            after = without.predict(items)
            print(
                f"\nover all test texts: {(after != before).sum()} of {len(before)} predictions change, accuracy "
                f"{(before == truth).mean():.3f} to {(after == truth).mean():.3f}"
            )
            return [(texts[i], why), (f"The same, switched off: {parts.name[0]}", then)]
    return []


if __name__ == "__main__":
    main()
