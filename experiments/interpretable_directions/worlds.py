"""The two models, their labels, and the three parts of the data: to find directions, to fit the probes that read, to measure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

import probekit as pk
from probekit.testbeds import othello

SQUARES = {
    "mine": ("D4", "C3", "F6", "B4", "G5", "E2"),
    "legal": ("B3", "G6", "F2", "C7", "B6", "G3"),
    "stable": ("A2", "D1", "H5"),
}
"""Which squares' labels: the disc is mine, not theirs; a move there is legal, of empty squares; the disc can never be turned."""
LATE = 30
"""Moves after which a game is late: a label that comes with many of the others, as age comes with glasses."""
PLIES = (10, 20, 30, 40, 50)
"""Moves after which a game is measured."""
TEXTS = ("positive review", "offensive tweet", "true of cities", "true of words", "true of numbers")
SUFFIX = "\nThat sounds"
"""Follows every text, so that the last token is the same for all, and the next one says what the model makes of the text."""
SAID = {
    "positive": (
        "great good awesome amazing wonderful perfect fantastic fun interesting exciting beautiful lovely nice incredible cool",
        "bad awful terrible horrible boring stupid silly weird odd strange crazy dull dumb disgusting sad awkward ridiculous",
    ),
    "offensive": ("rude mean racist sexist offensive disgusting gross sick nasty harsh cruel stupid dumb awful horrible", ""),
    "true": ("right correct true accurate reasonable logical plausible", "wrong false incorrect impossible odd strange crazy"),
}  # fmt: skip
"""Words that a label should make likelier next, and those that they are weighed against (all others where there are none)."""
LONGEST = 110
"""Letters that a text may have."""
SHARES = (0.42, 0.42, 0.16)
"""Of what texts are about, to find, to fit the probes that read, and to measure."""


@dataclass(frozen=True)
class World:
    """A model with labels, and data in three parts that share no game and no text.

    Attributes:
        site, later: Where directions are found and added; where probes read what that moved.
        labels: Names of the labels.
        find: Activations at `site`, and their data with its label set `"labels"`.
        read: The same at `later`, of other data.
        tokens: `[row]` sequences to measure on; the direction is added at the last token of each.
        values: `[row, label]` 0 or 1, -1 where a label is not defined.
        group: `[row]` what is drawn together by the bootstrap: the game, the city, the text.
        said: Tokens that may come next, and tokens to weigh them against (empty: all others), by what they say (a square, or
            the first word of a label): what the model does, beside what probes read.
        asked: `[row, said]` bool: where that is asked: on empty squares; of texts whose label it says.
        legal: `[row, 61]` bool, the moves that the rules allow; None for texts.
    """

    model: pk.Model
    site: str
    later: str
    labels: tuple[str, ...]
    find: tuple[pk.ActivationStore, pk.Dataset]
    read: tuple[pk.ActivationStore, pk.Dataset]
    tokens: list[np.ndarray]
    values: np.ndarray
    group: np.ndarray
    said: dict[str, tuple[list[int], list[int]]]
    asked: np.ndarray
    legal: np.ndarray | None = None

    def says(self, label: int) -> int | None:
        """Which entry of `said` belongs to a label: of a legal move that move, of discs none."""
        first, *rest = self.labels[label].split()
        return (
            list(self.said).index(first) if first in self.said and (rest == ["legal"] or self.legal is None) else None
        )

    def token_name(self, token: int) -> str:
        if self.model.tokenizer is not None:
            return str(self.model.tokenizer.decode([token]))
        return othello.SQUARE_NAMES[int(othello.tokens_to_squares(np.array([token]))[0])] if token else "padding"


def othello_world(site: str, later: str, find: int, measure: int, seed: int, out: Path) -> World:
    """`othello-mini`: random games, exact labels of a dozen squares."""
    model = pk.load_model("othello-mini")
    parts = [board_labels(othello.sample_games(n, seed=3 * seed + i)) for i, n in enumerate((find, find, measure))]
    stores = [
        pk.capture(model, games, at, every=3, out=out / "stores" / name, progress=False)
        for name, at, games in zip(("find", "read"), (site, later), parts, strict=False)
    ]
    games, labels = parts[2], parts[2].label_set("labels")
    starts = np.cumsum([0, *(len(t) for t in games.tokens or ())])
    rows = [(g, ply) for ply in PLIES for g, t in enumerate(games.tokens or ()) if len(t) >= ply]
    item = np.array([starts[g] + ply - 1 for g, ply in rows])
    legal = np.zeros((len(rows), othello.VOCABULARY), bool)
    squares = othello.tokens_to_squares(np.arange(1, othello.VOCABULARY))
    legal[:, 1:] = games.label_set("legal").values[item][:, squares] == 1
    tile = games.label_set("tile")
    empty = tile.values[item][:, squares] == tile.classes.index("empty")
    said = {othello.SQUARE_NAMES[square]: ([token], []) for token, square in enumerate(squares.tolist(), start=1)}
    played = legal.any(1)  # where nobody can move, the game is over
    kept = [row for row, keep in zip(rows, played, strict=True) if keep]
    return World(
        model, site, later, labels.targets, (stores[0], parts[0]), (stores[1], parts[1]),
        [games.tokens[g][:ply] for g, ply in kept], labels.values[item][played],
        np.array([g for g, _ in kept]), said, empty[played], legal[played],
    )  # fmt: skip


def board_labels(games: pk.Dataset) -> pk.Dataset:
    """With the label set `labels`: yes or no a square, not defined where the question does not arise."""
    tile = games.label_set("tile")
    theirs, mine, empty = (tile.classes.index(name) for name in ("theirs", "mine", "empty"))
    columns, names = [], []
    for question, squares in SQUARES.items():
        for square in squares:
            at = othello.SQUARE_NAMES.index(square)
            disc = tile.values[:, at]
            if question == "mine":
                column = np.select([disc == mine, disc == theirs], [1, 0], -1)
            elif question == "legal":
                column = np.where(disc == empty, games.label_set("legal").values[:, at], -1)
            else:
                column = games.label_set("stable").values[:, at]
            columns.append(column)
            names.append(f"{square} {question}")
    move = np.concatenate([np.arange(1, len(t) + 1) for t in games.tokens or ()])
    columns.append((move > LATE).astype(int))
    names.append("late in the game")
    found = pk.LabelSet("labels", np.stack(columns, 1), "binary", "token", ("no", "yes"), tuple(names))
    return replace(games, labels={**games.labels, "labels": found})


def text_world(
    source: str, folder: Path, site: str, later: str, find: int, measure: int, seed: int, out: Path
) -> World:
    """A language model: reviews that are positive, tweets that are offensive, statements of three sorts that are true."""
    model = pk.load_model(source)
    parts = dealt(texts(folder), model, (find, find, measure), seed)
    stores = [
        pk.capture(model, data, at, pool="last", out=out / "stores" / name, progress=False)
        for name, at, data in zip(("find", "read"), (site, later), parts, strict=False)
    ]
    last = parts[2]
    values = last.label_set("labels").values
    said = {name: (first_tokens(model, some), first_tokens(model, other)) for name, (some, other) in SAID.items()}
    asked = [np.any([values[:, i] >= 0 for i, label in enumerate(TEXTS) if label.startswith(name)], 0) for name in SAID]
    return World(
        model, site, later, TEXTS, (stores[0], parts[0]), (stores[1], parts[1]), list(last.tokens or ()), values,
        last.groups, said, np.stack(asked, 1),
    )  # fmt: skip


def first_tokens(model: pk.Model, words: str) -> list[int]:
    """Ids of the words that are one token when a space stands before them."""
    ids = [model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words.split()]
    return sorted({one[0] for one in ids if len(one) == 1})


def texts(folder: Path) -> pd.DataFrame:
    """Text, which of the kinds it is, whether the label holds, and what it is about."""
    reviews = pd.read_csv(
        folder / "movie_review_snippets.tsv", sep="\t", header=None, names=["id", "score", "text"], quoting=3
    )
    reviews = reviews[reviews.score.abs() > 1]
    tweets = pd.read_csv(folder / "hate_offensive_tweets.csv")
    frames = [
        pd.DataFrame({"text": reviews.text.map(clean), "yes": reviews.score > 0}),
        pd.DataFrame({"text": tweets.tweet.map(clean), "yes": tweets["class"] < 2}),
    ]
    for name, subject in (("cities", "The city of (.+?) is"), ("sp_en_trans", "'(.+?)'"), ("larger_than", "(.+)")):
        told = pd.read_csv(folder / f"truth_{name}.csv")
        about = told.statement.str.extract(subject)[0]
        frames.append(pd.DataFrame({"text": told.statement, "yes": told.label == 1, "about": about}))
    frame = pd.concat([f.assign(kind=kind) for kind, f in enumerate(frames)], ignore_index=True)
    frame = frame[(frame.text.str.split().str.len() >= 4) & (frame.text.str.len() <= LONGEST)].drop_duplicates("text")
    return frame.assign(about=frame.about.fillna(frame.text))


def clean(text: str) -> str:
    """Without user names, links, retweet marks and HTML entities, so that a probe cannot read these instead."""
    text = re.sub(r"https?://\S+|@\w+|\bRT\b|&#?\w+;", " ", str(text)).replace("''", '"')
    return re.sub(r"\s+", " ", text).strip(" :!.\"'")


def dealt(frame: pd.DataFrame, model: pk.Model, counts: tuple[int, ...], seed: int) -> list[pk.Dataset]:
    """Parts with so many texts of each kind, half of them with the label; what a text is about is in one part only."""
    rng = np.random.default_rng(seed)
    chosen: list[list[int]] = [[] for _ in counts]
    for kind in range(len(TEXTS)):
        some = frame[frame.kind == kind]
        abouts = rng.permutation(some.about.unique())
        ends = np.ceil(np.cumsum(SHARES) * len(abouts) - 1e-6).astype(int)
        part_of = dict(zip(abouts, np.searchsorted(ends, np.arange(len(abouts)), side="right"), strict=True))
        for part, count in enumerate(counts):
            for yes in (False, True):
                index = some.index[(some.about.map(part_of) == part) & (some.yes == yes)].to_numpy()
                chosen[part] += rng.permutation(index)[: count // 2].tolist()
    parts = []
    for part, index in enumerate(chosen):
        rows = frame.loc[index]
        values = np.full((len(rows), len(TEXTS)), -1)
        values[np.arange(len(rows)), rows.kind] = rows.yes.astype(int)
        labels = pk.LabelSet("labels", values, "binary", "sequence", ("no", "yes"), TEXTS)
        ids = tuple(model.tokenize([text + SUFFIX for text in rows.text])[0])
        groups = pd.factorize(rows.about)[0]
        parts.append(pk.Dataset(f"texts-{part}", tokens=ids, labels={"labels": labels}, groups=groups))
    return parts
