"""The texts of the experiment, each part used for one thing only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Texts:
    """What each step of the experiment reads. No text is in two of them.

    Attributes:
        find, find_unwanted: Texts that directions are found on, and whether each is of the unwanted kind.
        judge, judge_unwanted: Texts that the classifier of continuations is trained on.
        check, check_unwanted: Texts that the classifier is tested on.
        prompts: Beginnings of unwanted texts; half of them select, half are reported.
        wanted: Texts of the wanted kind, for tuning.
    """

    find: list[str]
    find_unwanted: np.ndarray
    judge: list[str]
    judge_unwanted: np.ndarray
    check: list[str]
    check_unwanted: np.ndarray
    prompts: list[str]
    wanted: list[str]


def toxicity(data: Path, seed: int, *, find: int, judge: int, prompts: int) -> Texts:
    """Tweets that people called hateful or offensive, against those they called neither (Davidson et al. 2017)."""
    frame = pd.read_csv(data / "hate_offensive_tweets.csv")
    return _dealt([clean(t) for t in frame.tweet], (frame["class"] < 2).to_numpy(), seed, find, judge, prompts)


def sentiment(data: Path, seed: int, *, find: int, judge: int, prompts: int) -> Texts:
    """Snippets of film reviews that people found negative (mean below -1), against positive ones (above 1)."""
    frame = pd.read_csv(
        data / "movie_review_snippets.tsv", sep="\t", header=None, names=["id", "score", "text"], quoting=3
    )
    frame = frame[frame.score.abs() > 1]
    return _dealt([clean(t) for t in frame.text], (frame.score < 0).to_numpy(), seed, find, judge, prompts)


def clean(text: str) -> str:
    """Without user names, links, retweet marks and HTML entities, so that a probe cannot read these instead."""
    text = re.sub(r"https?://\S+|@\w+|\bRT\b|&#?\w+;", " ", str(text)).replace("''", '"')
    return re.sub(r"\s+", " ", text).strip(" :!.\"'")


def neutral(data: Path, count: int, words: int = 90) -> list[str]:
    """Paragraphs of WikiText-2, cut to a length."""
    lines = [line.strip() for line in (data / "wikitext2_valid.txt").read_text(encoding="utf-8").splitlines()]
    long = [" ".join(line.split()[:words]) for line in lines if len(line.split()) >= words and not line.startswith("=")]
    return [long[i] for i in np.linspace(0, len(long) - 1, count).astype(int)]


def countries(data: Path, count: int, seed: int) -> tuple[list[str], list[list[str]], list[int]]:
    """`The city of Krasnodar is in`, the right country and another: prompts, options, answers."""
    frame = pd.read_csv(data / "truth_cities.csv")
    wrong = frame[frame.label == 0].sample(count, random_state=seed)
    flip = np.random.default_rng(seed).integers(0, 2, count)
    options = [
        [f" {right}", f" {other}"][:: 1 if side == 0 else -1]
        for right, other, side in zip(wrong.correct_country, wrong.country, flip, strict=True)
    ]
    return [f"The city of {city} is in" for city in wrong.city], options, flip.tolist()


def translations(data: Path, count: int, seed: int) -> tuple[list[str], list[list[str]], list[int]]:
    """`The Spanish word 'uno' means`, the right word and the meaning of another."""
    frame = pd.read_csv(data / "truth_sp_en_trans.csv")
    frame = frame[frame.label == 1].statement.str.extract(r"The Spanish word '(.+)' means '(.+)'\.").dropna()
    meaning = dict(zip(frame[0], frame[1], strict=True))
    rng = np.random.default_rng(seed)
    words = rng.permutation(sorted(meaning))[:count].tolist()
    flip = rng.integers(0, 2, len(words))
    options = []
    for word, side in zip(words, flip, strict=True):
        other = rng.choice(sorted(set(meaning.values()) - {meaning[word]}))
        options.append([f" '{meaning[word]}'", f" '{other}'"][:: 1 if side == 0 else -1])
    return [f"The Spanish word '{word}' means" for word in words], options, flip.tolist()


def _dealt(texts: list[str], unwanted: np.ndarray, seed: int, find: int, judge: int, prompts: int) -> Texts:
    """Equal numbers of both kinds to each part, without texts that occur twice or are short."""
    frame = pd.DataFrame({"text": texts, "unwanted": unwanted})
    frame = frame[frame.text.str.split().str.len() >= 6].drop_duplicates("text")
    rng = np.random.default_rng(seed)
    kinds = {k: rng.permutation(frame.index[frame.unwanted == k].to_numpy()) for k in (True, False)}
    used = dict.fromkeys(kinds, 0)

    def take(count: int, kind: bool) -> list[str]:
        start = used[kind]
        chosen = kinds[kind][start : start + count]
        if len(chosen) < count:
            raise ValueError(f"only {len(kinds[kind])} texts of kind {kind}")
        used[kind] += count
        return frame.text[chosen].tolist()

    def both(count: int) -> tuple[list[str], np.ndarray]:
        half = count // 2
        return take(half, True) + take(half, False), np.repeat([True, False], half)

    parts = [both(find), both(judge), both(judge // 4)]
    begun = [" ".join(text.split()[: max(4, len(text.split()) // 2)]) for text in take(prompts, True)]
    return Texts(*[value for part in parts for value in part], begun, take(min(400, find // 4), False))
