"""Six small tasks of two answers each, and their parts: no subject of a task is in two of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

TRUE, FALSE = (" true", " false")


@dataclass(frozen=True)
class Items:
    """Prompts of one part of a task, as many of one answer as of the other, in a random order.

    Attributes:
        prompts: What the model reads; it answers with the token after it.
        right: `[item]` index of the right answer among the task's two.
        subject: `[item]` what each is about, as numbers: intervals resample these.
    """

    prompts: list[str]
    right: np.ndarray
    subject: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def where(self, mask: np.ndarray) -> Items:
        """Those of a mask `[item]`."""
        rows = np.flatnonzero(mask)
        return Items([self.prompts[row] for row in rows], self.right[rows], self.subject[rows])

    def first(self, count: int) -> Items:
        return Items(self.prompts[:count], self.right[:count], self.subject[:count])


@dataclass(frozen=True)
class Task:
    """A question with two answers.

    Attributes:
        answers: The two words, each one token with the space before it.
        tune: What the model is tuned on: with right answers first, with random ones to forget.
        fit: What probes and erasers are fitted on.
        test: What everything is measured on.
    """

    name: str
    answers: tuple[str, str]
    tune: Items
    fit: Items
    test: Items


def read_tasks(data: Path, seed: int, tune: int, fit: int, test: int) -> dict[str, Task]:
    """All tasks; in one with few items, tune and test get a quarter of them each at most, and fit what is left."""
    statements = {
        "cities": ("truth_cities.csv", r"The city of (.+) is in "),
        "negated cities": ("truth_neg_cities.csv", r"The city of (.+) is not in "),
        "Spanish words": ("truth_sp_en_trans.csv", r"The Spanish word '(.+?)' "),
        "numbers": ("truth_larger_than.csv", r"(.+ is larger than .+)\."),
    }
    frames: dict[str, tuple[tuple[str, str], pd.DataFrame]] = {}
    for name, (file, subject) in statements.items():
        frame = pd.read_csv(data / file)
        about = frame.statement.str.extract(subject)[0].str.lower()
        if name == "numbers":  # fifty is larger than sixty, sixty is larger than fifty: one subject
            about = about.map(lambda words: " ".join(sorted(words.split(" is larger than "))))
        prompts = frame.statement + " This statement is"
        frames[name] = (TRUE, FALSE), pd.DataFrame({"prompt": prompts, "right": 1 - frame.label, "subject": about})
    frames["reviews"] = (" positive", " negative"), _reviews(data)
    frames["tweets"] = (" yes", " no"), _tweets(data)
    return {
        name: _dealt(name, answers, frame.dropna(), seed, (tune, fit, test))
        for name, (answers, frame) in frames.items()
    }


def _reviews(data: Path) -> pd.DataFrame:
    frame = pd.read_csv(data / "movie_review_snippets.tsv", sep="\t", header=None, names=["id", "score", "text"], quoting=3)  # fmt: skip
    frame = frame[(frame.score.abs() > 1) & frame.text.str.split().str.len().between(5, 20)]
    texts = frame.text.map(_clean)
    prompts = "Review: " + texts + "\nThis review is"
    return pd.DataFrame({"prompt": prompts, "right": (frame.score < 0).astype(int), "subject": texts})


def _tweets(data: Path) -> pd.DataFrame:
    frame = pd.read_csv(data / "hate_offensive_tweets.csv")
    texts = frame.tweet.map(_clean)
    frame = frame.assign(text=texts)[texts.str.split().str.len().between(5, 20)]
    prompts = "Tweet: " + frame.text + "\nIs this offensive? Answer:"
    return pd.DataFrame({"prompt": prompts, "right": (frame["class"] == 2).astype(int), "subject": frame.text})


def _clean(text: str) -> str:
    """Without user names, links, retweet marks and HTML entities."""
    text = re.sub(r"https?://\S+|@\w+|\bRT\b|&#?\w+;", " ", str(text)).replace("''", '"')
    return re.sub(r"\s+", " ", text).strip(" :!\"'")


def _dealt(name: str, answers: tuple[str, str], frame: pd.DataFrame, seed: int, sizes: tuple[int, int, int]) -> Task:
    """Subjects in a random order, to one part after the other, as many items of each answer."""
    frame = frame.drop_duplicates("prompt")
    rng = np.random.default_rng(
        [seed, 7]
    )  # the same for all, so that a city is in the same part of both tasks about cities
    order = rng.permutation(frame.subject.unique())
    frame = frame.set_index("subject").loc[order].reset_index()
    quarter, (tune, fit, test) = 2 * min(frame.right.value_counts()) // 4, sizes
    tune, test = min(tune, quarter), min(test, quarter)
    parts, used = [], 0
    for size in (tune, test, min(fit, int(1.6 * quarter))):
        half = size // 2
        rest = frame.iloc[used:]
        taken = pd.concat([rest[rest.right == answer].iloc[:half] for answer in (0, 1)])
        if len(taken) < 2 * half:
            raise ValueError(f"{name}: {len(frame)} items are too few for parts of {sizes}")
        last = taken.index.max()
        # Everything about a subject stays in the part: the next one begins at the next subject.
        used = int(frame.index[frame.subject == frame.subject[last]].max()) + 1
        taken = taken.iloc[rng.permutation(len(taken))]
        parts.append(Items(taken.prompt.tolist(), taken.right.to_numpy(), pd.factorize(taken.subject)[0]))
    return Task(name, answers, tune=parts[0], fit=parts[2], test=parts[1])
