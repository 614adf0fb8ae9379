"""What share of a small language model's SAE features earns a name, against the same pipeline on random weights?

    python experiments/smollm2_features/run.py --model FOLDER_OR_ID_OR_GGUF --data FOLDER --out out/smollm2_features

One sparse autoencoder is trained on a middle layer of the model, another by the same recipe on the same layer of the same
architecture with fresh random weights, both on the same texts. Features are named by words of the texts and by labels, each name
judged on texts that played no part in making it. FOLDER holds `wikitext2_valid.txt`, `movie_review_snippets.tsv` (id, mean
sentiment, text), `hate_offensive_tweets.csv` (columns `class`, `tweet`) and some `truth_*.csv` (columns `statement`, `label`).

`--encoder` is a sentence-transformers folder that tells which words are like a name; without it words are compared by their
letters. Everything made stays in OUT, and a second run, or one after a kill, goes on from there.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import probekit as pk
import saes
from probekit.data import drop_seen_prefixes
from probekit.models.editing import changed_at
from saes.naming.contexts import decoder

SHARES = {"wikipedia": 0.7, "review": 0.1, "tweet": 0.1, "statement": 0.1}
"""Of the tokens, by where a text is from."""
TWEET_CLASSES = ("hate", "offensive", "neither")
TOKEN_KINDS = ("the start of a word", "inside a word", "a number", "no word")
PLACES = {"second": 1, "third to eighth": 2, "ninth to 32nd": 8, "33rd to 128th": 32, "129th or later": 128}
"""Positions, each with the first of them (positions count from 0; position 0 is left out)."""
CHECKED = 20
"""Names checked by taking the feature out of the running model: those with the best accuracy, by its lower end."""
KINDS = {"words like": "the word", "before words": "the next word", "text about": "the text around"}


@dataclass(frozen=True)
class Text:
    """A text, where it is from, and what is known of it (-1: no such label)."""

    text: str
    source: str
    sentiment: int = -1
    tweet: int = -1
    truth: int = -1


def read(folder: Path) -> dict[str, list[Text]]:
    """All texts by source; equal texts once."""
    wikitext = (folder / "wikitext2_valid.txt").read_text(encoding="utf-8").splitlines()
    found = {"wikipedia": [Text(line.strip(), "wikipedia") for line in wikitext if len(line.strip()) > 80]}
    reviews = (folder / "movie_review_snippets.tsv").read_text(encoding="utf-8").splitlines()
    rated = [(text, float(rating)) for _, rating, text in (line.split("\t") for line in reviews)]
    found["review"] = [Text(text, "review", sentiment=int(r > 0) if abs(r) >= 0.5 else -1) for text, r in rated]
    with (folder / "hate_offensive_tweets.csv").open(encoding="utf-8", newline="") as file:
        found["tweet"] = [Text(row["tweet"], "tweet", tweet=int(row["class"])) for row in csv.DictReader(file)]
    found["statement"] = []
    for path in sorted(folder.glob("truth_*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found["statement"] += [
                Text(row["statement"], "statement", truth=int(row["label"])) for row in csv.DictReader(file)
            ]
    return {source: list({one.text: one for one in texts}.values()) for source, texts in found.items()}


def mixed(folder: Path, model: pk.Model, tokens: int, seed: int) -> tuple[pk.Dataset, list[np.ndarray]]:
    """Texts drawn at random from every source until its share of the tokens is reached, and their tokens, with labels."""
    rng, drawn, ids = np.random.default_rng(seed), [], []
    for source, texts in read(folder).items():
        order = rng.permutation(len(texts))
        tokenized, _ = model.tokenize([texts[i].text for i in order])
        before = np.cumsum([0, *map(len, tokenized)])[:-1]
        taken = int((before < SHARES[source] * tokens).sum())
        drawn += [texts[i] for i in order[:taken]]
        ids += tokenized[:taken]
    sets = [
        _sequence_labels("the source", [list(SHARES).index(t.source) for t in drawn], tuple(SHARES)),
        _sequence_labels("the sentiment", [t.sentiment for t in drawn], ("negative", "positive")),
        _sequence_labels("the tweet", [t.tweet for t in drawn], TWEET_CLASSES),
        _sequence_labels("the statement", [t.truth for t in drawn], ("false", "true")),
        *_token_labels(ids, model),
    ]
    data = pk.Dataset("mixed texts", texts=[t.text for t in drawn], labels={one.name: one for one in sets})
    return data, ids


def _sequence_labels(name: str, values: Sequence[int], classes: tuple[str, ...]) -> pk.LabelSet:
    kind = "binary" if len(classes) == 2 else "multiclass"
    return pk.LabelSet(name, np.array(values), kind, "sequence", classes)


def _token_labels(ids: Sequence[np.ndarray], model: pk.Model) -> list[pk.LabelSet]:
    """What can be seen of a token without a model: its form, whether it has a capital, and its position."""
    token, place = np.unique(np.concatenate(ids), return_inverse=True)
    pieces = [str(text) for text in decoder(model)(token.tolist())]
    starts = np.array([text[:1].isspace() for text in pieces])
    number = np.array([any(map(str.isdigit, text)) for text in pieces])
    letters = np.array([any(map(str.isalpha, text)) for text in pieces])
    kind = np.select([number, letters & starts, letters], [2, 0, 1], 3)[place]
    position = np.concatenate([np.arange(len(sequence)) for sequence in ids])
    kind[(position == 0) & (kind == 1)] = 0
    capital = np.array([text.strip()[:1].isupper() for text in pieces])[place].astype(int)
    step = np.searchsorted(list(PLACES.values()), position, side="right") - 1
    return [
        pk.LabelSet("the token", kind, "multiclass", "token", TOKEN_KINDS),
        pk.LabelSet("the token's first letter", capital, "binary", "token", ("no capital", "a capital")),
        pk.LabelSet("the position", step, "multiclass", "token", tuple(PLACES)),
    ]


@dataclass(frozen=True)
class Made:
    """What the pipeline makes of one model."""

    sae: Any
    store: pk.ActivationStore
    features: saes.SparseFeatures
    health: saes.Health
    names: saes.Names
    label_names: saes.Names
    by_token: np.ndarray

    @property
    def fires(self) -> np.ndarray:
        """`[feature]` rows at which each fires."""
        count: np.ndarray = np.diff(self.features.matrix.indptr)
        return count


def pipeline(
    model: pk.Model, data: pk.Dataset, ids: Sequence[np.ndarray], out: Path, encoder: Any, args: argparse.Namespace
) -> Made:
    """Activations, SAE, features and names of one model; what `out` holds already is not made again."""
    began = time.perf_counter()

    def said(what: str) -> None:
        print(f"[{out.name}, {(time.perf_counter() - began) / 60:.1f} min] {what}", flush=True)

    site = f"blocks.{args.layer}.hook_resid_post"
    later = np.concatenate([np.arange(len(sequence)) > 0 for sequence in ids])
    store = pk.capture(model, data, site, out=out / "store", rows=later)
    said(f"{len(store):,} rows of {len(data):,} texts")
    sae = saes.train(
        store, site=site, width=args.width, kind="topk", k=args.k, batch=args.batch, lr=1e-3, rows=args.rows,
        out=out / "sae",
    )  # fmt: skip
    health = saes.health(sae, store)
    said(f"SAE: {health}")
    features = saes.encode(sae, store, out=out / "features")
    labels = [data.label_set(name) for name in data.labels]
    if not (out / "label_names.jsonl").exists():
        saes.name(sae, features, labels).save(out / "label_names.jsonl")
    label_names = saes.Names.load(out / "label_names.jsonl")
    said(f"{len(label_names):,} features named by labels alone")
    if not (out / "names.jsonl").exists():
        words = saes.Vocabulary(encoder=encoder, model=model)
        saes.name(sae, features, labels, vocabulary=words, decode=model).save(out / "names.jsonl")
    names = saes.Names.load(out / "names.jsonl")
    said(f"{len(names):,} features named")
    if not (out / "checked.jsonl").exists():
        saes.intervene(names, sae, features, model, data, most=CHECKED, rows=32).save(out / "checked.jsonl")
    names = saes.Names.load(out / "checked.jsonl")
    said(f"{sum(name.check is not None for name in names)} names checked by taking their features out of the model")
    return Made(sae, store, features, health, names, label_names, accuracy_by_token(features))


def accuracy_by_token(features: saes.SparseFeatures, seed: int = 0) -> np.ndarray:
    """`[feature]` balanced accuracy with which the current token's id alone tells firing rows from silent ones.

    On one half of the sequences each token gets the share of its rows at which the feature fires (at least the median of its
    activations above zero, as for names), and a cut on that share is chosen; accuracy is of the other half. NaN where the
    feature does not fire in both.
    """
    sequences = np.unique(features.sequence)
    first = np.isin(features.sequence, np.random.default_rng(seed).permutation(sequences)[: len(sequences) // 2])
    other = ~first
    other[other] = drop_seen_prefixes(features.prefix[first], features.prefix[~first])
    token = np.unique(features.token, return_inverse=True)[1]
    count = int(token.max()) + 1
    here, there = (np.bincount(token[mask], minlength=count) for mask in (first, other))
    found = np.full(features.width, np.nan)
    matrix = features.matrix
    for feature in range(features.width):
        part = slice(matrix.indptr[feature], matrix.indptr[feature + 1])
        rows, values = matrix.indices[part], matrix.data[part]
        if not first[rows].any() or not other[rows].any():
            continue
        strong = rows[values >= np.median(values[first[rows]])]
        fires, fires_there = (np.bincount(token[strong[mask[strong]]], minlength=count) for mask in (first, other))
        if not fires_there.any():
            continue
        order = np.argsort(-fires / np.maximum(here, 1), kind="stable")
        hit, miss = fires[order].cumsum(), (here - fires)[order].cumsum()
        covered = order[: int((hit / hit[-1] - miss / miss[-1]).argmax()) + 1]
        silent = there - fires_there
        found[feature] = (fires_there[covered].sum() / fires_there.sum() + 1 - silent[covered].sum() / silent.sum()) / 2
    return found


@torch.no_grad()
def spliced(
    model: pk.Model, made: Made, ids: Sequence[np.ndarray], site: str, most: int = 150, seed: int = 0
) -> dict[str, str]:
    """Loss of the next token as it is, with the SAE's reconstruction and with the mean in place of the activations.

    On texts that the SAE was not trained on. The first position of a text, which the SAE was not trained on either, stays as
    it is. With 95 % intervals from a bootstrap over texts.
    """
    from saes.rows import held_out_sequences

    held_out = np.flatnonzero(held_out_sequences(len(ids), 0.1))
    chosen = [i for i in np.random.default_rng(seed).permutation(held_out) if len(ids[i]) > 2][:most]
    mean = torch.from_numpy(made.store.read(site, slice(0, 4096)).mean(0))

    def rebuilt(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :1], made.sae(x[0, 1:])[None]], 1)

    def constant(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :1], mean.expand_as(x[:, 1:])], 1)

    sums = np.zeros((len(chosen), 4))
    for row, i in enumerate(chosen):
        tokens = torch.from_numpy(ids[i].astype(np.int64))[None]

        def loss(tokens: torch.Tensor = tokens) -> float:
            logits = model.hf(tokens).logits[0, 1:-1].float()
            return float(torch.nn.functional.cross_entropy(logits, tokens[0, 2:], reduction="sum"))

        sums[row, 0], sums[row, 3] = loss(), tokens.shape[1] - 2
        for column, change in ((1, rebuilt), (2, constant)):
            with changed_at(model, site, change):
                sums[row, column] = loss()
    total = sums[:, :3].sum(0) / sums[:, 3].sum()
    drawn = sums[np.random.default_rng(seed).integers(len(sums), size=(1000, len(sums)))].sum(1)
    recovered = (drawn[:, 2] - drawn[:, 1]) / (drawn[:, 2] - drawn[:, 0])
    low, high = np.quantile(recovered, [0.025, 0.975])
    return {
        "texts": f"{len(chosen)}",
        "loss": f"{total[0]:.3f}",
        "spliced": f"{total[1]:.3f}",
        "mean": f"{total[2]:.3f}",
        "recovered": f"{(total[2] - total[1]) / (total[2] - total[0]):.3f} ({low:.3f} to {high:.3f})",
    }


def wilson(count: int, total: int) -> str:
    """A share with its 95 % Wilson interval."""
    if total == 0:
        return "none"
    p, z = count / total, 1.959964
    centre, half = p + z * z / (2 * total), z * np.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    low, high = ((centre + sign * half) / (1 + z * z / total) for sign in (-1, 1))
    return f"{100 * p:.1f} % ({100 * low:.1f} to {100 * high:.1f}), {count:,} of {total:,}"


def kind_of(text: str, source: str) -> str:
    """What a name looks at."""
    return "a label" if source == "labels" else next(kind for start, kind in KINDS.items() if text.startswith(start))


def shares(made: Made) -> dict[str, str]:
    """Shares of the features that fire at ten rows or more, with Wilson intervals over features."""
    live = made.fires >= 10
    frame = made.names.to_frame()
    named = np.zeros(len(live), bool)
    kinds = np.full(len(live), "", dtype=object)
    if len(frame):
        named[frame.feature] = True
        kinds[frame.feature] = [kind_of(text, source) for text, source in zip(frame.text, frame.source, strict=True)]
    total = int(live.sum())
    found = {"live (fire at 10 rows or more)": f"{total:,} of {len(live):,}"}
    found["named"] = wilson(int((named & live).sum()), total)
    for kind in (*KINDS.values(), "a label"):
        found[f"named by {kind}"] = wilson(int((live & (kinds == kind)).sum()), total)
    with_label = np.zeros(len(live), bool)
    with_label[[name.feature for name in made.label_names]] = True
    found["named, labels alone"] = wilson(int((with_label & live).sum()), total)
    told = made.by_token >= 0.9
    found["told by the current token's id (balanced accuracy 0.9 or more)"] = wilson(int((told & live).sum()), total)
    known = live & ~np.isnan(made.by_token)
    for low, high in ((0.0, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.01)):
        part = known & (made.by_token >= low) & (made.by_token < high)
        found[f"named, of those the token tells at {low:.1f} to {min(high, 1):.1f}"] = wilson(
            int((named & part).sum()), int(part.sum())
        )
    checks = [name.check for name in made.names if name.check is not None]
    found["hold when the feature is taken out, of the names checked"] = wilson(
        sum(check.holds for check in checks), len(checks)
    )
    beyond = known & (made.by_token < 0.8)
    context = np.isin(kinds, ["the next word", "the text around", "a label"])
    found["named by more than the word, the token telling less than 0.8"] = wilson(int((beyond & context).sum()), total)
    return found


def figures(made: Made) -> pd.DataFrame:
    """Quartiles of what names score, and of what the current token's id scores."""
    frame = made.names.to_frame()
    columns = {}
    if len(frame):
        scores = ("balanced_accuracy", "hard_accuracy", "shuffled", "precision", "recall")
        columns = {name: frame[name].quantile([0.25, 0.5, 0.75]) for name in scores}
        columns["token's id, named"] = pd.Series(made.by_token[frame.feature]).quantile([0.25, 0.5, 0.75])
    columns["token's id, live"] = pd.Series(made.by_token[made.fires >= 10]).quantile([0.25, 0.5, 0.75])
    return pd.DataFrame(columns).round(3)


def every_nth(numbers: np.ndarray, count: int) -> np.ndarray:
    """`count` of them, evenly spaced in their order: the rule by which what is shown is chosen."""
    if len(numbers) <= count:
        return numbers
    chosen: np.ndarray = numbers[((np.arange(count) + 0.5) * len(numbers) / count).astype(int)]
    return chosen


def strongest(made: Made, feature: int, model: pk.Model, count: int = 2) -> str:
    """The tokens at which a feature fires most, one a text, each with the few before it."""
    matrix = made.features.matrix
    part = slice(matrix.indptr[feature], matrix.indptr[feature + 1])
    rows = matrix.indices[part][np.argsort(-matrix.data[part], kind="stable")]
    shown: dict[int, str] = {}
    for row in rows[:50].tolist():
        sequence = int(made.features.sequence[row])
        if sequence not in shown and len(shown) < count:
            back = min(8, int(made.features.position[row]) - 1)
            ids = made.features.token[row - back : row + 1].tolist()
            *before, last = decoder(model)(ids)
            shown[sequence] = f"{''.join(before)}[{last}]".replace("\n", " ").replace("|", "/").strip()
    return " … ".join(shown.values())


def shown(made: Made, model: pk.Model) -> tuple[pd.DataFrame, pd.DataFrame]:
    """20 named and five unnamed features, every n-th by number."""
    live = np.flatnonzero(made.fires >= 10)
    names = {name.feature: name for name in made.names}
    rows = []
    for feature in every_nth(np.array([f for f in live if f in names], int), 20).tolist():
        name = names[feature]
        evidence = name.evidence
        rows.append(
            {
                "feature": feature,
                "name": name.text,
                "balanced": f"{evidence.balanced_accuracy:.2f}",
                "hard": f"{evidence.hard_accuracy:.2f}",
                "precision": f"{evidence.precision:.2f}",
                "recall": f"{evidence.recall:.2f}",
                "rows": evidence.rows,
                "token": f"{made.by_token[feature]:.2f}",
                "rival": name.rival,
                "strongest": strongest(made, feature, model),
            }
        )
    unnamed = [
        {
            "feature": feature,
            "rows": made.fires[feature],
            "token": f"{made.by_token[feature]:.2f}",
            "strongest": strongest(made, feature, model, 4),
        }
        for feature in every_nth(np.array([f for f in live if f not in names], int), 5).tolist()
    ]
    return pd.DataFrame(rows), pd.DataFrame(unnamed)


def checks_of(made: Made) -> pd.DataFrame:
    """What taking a feature out did to what its name says, a row a name checked."""
    frame = made.names.to_frame()
    if "check_effect" not in frame:
        return pd.DataFrame()
    frame = frame[frame.check_effect.notna()]
    columns = [
        "feature",
        "text",
        "check_effect",
        "check_low",
        "check_high",
        "check_control",
        "check_beyond_high",
        "check_rows",
        "check_q",
    ]
    return frame[columns].round(3)


def main(arguments: Sequence[str] | None = None) -> dict[str, Made]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/smollm2_features"))
    parser.add_argument("--encoder", type=Path, help="a sentence-transformers folder, for the names")
    parser.add_argument("--tokens", type=int, default=280_000, help="to read")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--width", type=int, default=2048, help="features of the SAE")
    parser.add_argument("--k", type=int, default=32, help="features that fire at a row")
    parser.add_argument("--rows", type=int, default=1_200_000, help="rows to train the SAE on, repeats counted")
    parser.add_argument("--batch", type=int, default=512, help="rows a step")
    parser.add_argument("--seed", type=int, default=0, help="of the texts drawn and of the random weights")
    args = parser.parse_args(arguments)

    model = pk.load_model(args.model)
    data, ids = mixed(args.data, model, args.tokens, args.seed)
    encoder = None
    if args.encoder is not None:
        encoder = saes.sentence_encoder(args.encoder, device="cpu", cache=args.out / "vectors")
    made = {"real": pipeline(model, data, ids, args.out / "real", encoder, args)}
    if not (args.out / "features.html").exists():
        page = args.out / "features.html"
        saes.save_page(page, made["real"].features, made["real"].sae, names=made["real"].names, model=model)
    print(f"\nspliced: {spliced(model, made['real'], ids, f'blocks.{args.layer}.hook_resid_post')}")
    report(made["real"], "real", model)
    made["random"] = pipeline(model.randomized(args.seed), data, ids, args.out / "random", encoder, args)
    report(made["random"], "random", model)
    table = pd.DataFrame({which: shares(one) for which, one in made.items()})
    print(f"\n# shares\n\n{table.to_markdown()}")
    return made


def report(made: Made, which: str, model: pk.Model) -> None:
    print(
        f"\n# {which} weights: {made.health}\n\n{pd.Series(shares(made)).to_markdown()}\n\n{figures(made).to_markdown()}"
    )
    for title, frame in zip(("named", "unnamed"), shown(made, model), strict=True):
        print(f"\n{title}, every n-th\n\n{frame.to_markdown(index=False)}", flush=True)
    print(f"\nfeatures taken out of the model\n\n{checks_of(made).to_markdown(index=False)}", flush=True)


if __name__ == "__main__":
    main()
