"""The texts of the experiment, each used for one thing only: to train the small model, to fit maps, to probe, to patch."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

PARTS = ("train", "valid", "maps", "probes", "patched")


@dataclass(frozen=True)
class Part:
    """Texts with what they belong to.

    Attributes:
        texts: Each once.
        groups: `[text]` what is never split: the article of a passage, else the text itself.
        source: `[text]` wiki, reviews or tweets.
        label: `[text]` 1 where a review is positive or a tweet offensive, 0 where not; -1 where neither is asked.
    """

    texts: list[str]
    groups: np.ndarray
    source: np.ndarray
    label: np.ndarray

    def only(self, source: str) -> Part:
        kept = np.flatnonzero(self.source == source)
        return Part([self.texts[i] for i in kept], self.groups[kept], self.source[kept], self.label[kept])


def read_texts(
    data: Path, seed: int, *, maps: int = 150, probes: int = 400, patched: int = 24, valid: int = 150
) -> dict[str, Part]:
    """The five parts, by name; no text and no article is in two of them.

    Args:
        data: Holds `wikitext2_valid.txt`, `movie_review_snippets.tsv` and `hate_offensive_tweets.csv`.
        maps, patched, valid: Texts of each source.
        probes: Labelled texts of reviews and of tweets, half of them of either label.
    """
    rng = np.random.default_rng(seed)
    frames = [_wiki(data, rng, maps, patched)]
    for name, frame in (("reviews", _reviews(data)), ("tweets", _tweets(data))):
        frame = frame[frame.text.str.split().str.len() >= 6].drop_duplicates("text")
        frame = frame.iloc[rng.permutation(len(frame))]
        frame = frame.assign(source=name, group=name + frame.index.astype(str), part="train")
        for label in (0, 1):
            asked = frame.index[frame.label == label][: probes // 2]
            if len(asked) < probes // 2:
                raise ValueError(f"only {len(asked)} {name} with label {label}; {probes // 2} were asked for")
            frame.loc[asked, "part"] = "probes"
        rest, at = frame.index[frame.part == "train"], 0
        for part, count in (("maps", maps), ("patched", patched), ("valid", valid)):
            frame.loc[rest[at : at + count], "part"] = part
            at += count
        frames.append(frame)
    whole = pd.concat(frames).drop_duplicates("text")
    found = {}
    for part in PARTS:
        some = whole[whole.part == part]
        if some.empty:
            raise ValueError(f"no text is left for {part}")
        label = some.label.to_numpy(np.int64) if part == "probes" else np.full(len(some), -1)
        found[part] = Part(some.text.tolist(), pd.factorize(some.group)[0], some.source.to_numpy(str), label)
    return found


def _wiki(data: Path, rng: np.random.Generator, maps: int, patched: int) -> pd.DataFrame:
    """Paragraphs to train on; from other articles, sentences without unknown words."""
    lines = (data / "wikitext2_valid.txt").read_text(encoding="utf-8").splitlines()
    titles = np.cumsum([bool(re.match(r" = [^=].* = $", line)) for line in lines])
    articles: dict[int, list[str]] = {}
    for number, line in zip(titles, lines, strict=True):
        if len(line.split()) >= 20:
            articles.setdefault(int(number), []).append(re.sub(r" @(.)@ ", r"\1", line).strip())
    if len(articles) < 8:
        raise ValueError(f"{len(articles)} articles in {data / 'wikitext2_valid.txt'}; eight are needed")
    order = rng.permutation(sorted(articles)).tolist()
    held = max(2, len(order) // 7)
    roles = {
        "maps": order[:held],
        "patched": order[held : 2 * held],
        "valid": order[2 * held : 2 * held + held // 2 + 1],
    }
    roles["train"] = order[2 * held + held // 2 + 1 :]
    rows = []
    for part, numbers in roles.items():
        found = [(f"wiki{n}", text) for n in numbers for line in articles[n] for text in _pieces(line, part)]
        count = {"maps": maps, "patched": patched}.get(part, len(found))
        kept = np.sort(rng.permutation(len(found))[:count])
        rows += [{"text": found[i][1], "group": found[i][0], "part": part} for i in kept]
    return pd.DataFrame(rows).assign(source="wiki", label=-1)


def _pieces(paragraph: str, part: str) -> list[str]:
    if part in ("train", "valid"):
        return [paragraph]
    sentences = re.split(r"(?<= \.) ", paragraph)
    return [s for s in sentences if "<unk>" not in s and 8 <= len(s.split()) <= 40]


def _reviews(data: Path) -> pd.DataFrame:
    """Positive where the mean rating is above 1, negative below -1, else without a label."""
    frame = pd.read_csv(
        data / "movie_review_snippets.tsv", sep="\t", header=None, names=["id", "score", "text"], quoting=3
    )
    label = np.select([frame.score > 1, frame.score < -1], [1, 0], -1)
    return pd.DataFrame({"text": frame.text.astype(str).str.replace("''", '"').str.strip(), "label": label})


def _tweets(data: Path) -> pd.DataFrame:
    """Hateful or offensive against neither; without names, links and marks of retweets, which would give the label away."""
    frame = pd.read_csv(data / "hate_offensive_tweets.csv")
    text = frame.tweet.astype(str).map(html.unescape).str.replace(r"https?://\S+|@\w+:?|\bRT\b", " ", regex=True)
    text = text.str.replace(r"\s+", " ", regex=True).str.strip(" !:\"'.")
    return pd.DataFrame({"text": text, "label": (frame["class"] < 2).astype(int)})
