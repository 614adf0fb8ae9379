"""Texts as tokens, with the words a reader sees for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from probekit.models import Model

Item: TypeAlias = "str | Sequence[int] | np.ndarray"
_SAMPLE = "a"
_SAMPLES = (
    "a",
    "The quick brown fox, 1234567890!",
    "def f(x): return x**2  # \u00e9t\u00e9",
    "\u65e5\u672c \u043c\u0438\u0440 \U0001f600\n\t END",
)


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts before and after every text."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: Model) -> Frame:
        """Seen at one short text. Special tokens that a text itself spells out are its own."""
        if model.tokenizer is None:
            return cls()
        encoded = model.tokenizer(_SAMPLE, return_special_tokens_mask=True, truncation=False, verbose=False)
        own = np.flatnonzero(np.asarray(encoded["special_tokens_mask"]) == 0)
        ids = [int(i) for i in encoded["input_ids"]]
        return cls(tuple(ids[: own[0]]), tuple(ids[own[-1] + 1 :])) if len(own) else cls()

    def own(self, ids: np.ndarray) -> tuple[int, int]:
        """Range of the tokens that are the text's own; empty where there are none."""
        start, stop = 0, len(ids)
        if self.before and tuple(ids[: len(self.before)]) == self.before:
            start = len(self.before)
        if self.after and tuple(ids[len(ids) - len(self.after) :]) == self.after:
            stop -= len(self.after)
        return start, max(start, stop)


def tokens_digest(model: Model) -> str | None:
    """16 hex digits of what a few texts become, special tokens among it; None of a model that takes tokens only."""
    if model.tokenizer is None:
        return None
    ids = [[int(i) for i in model.tokenizer(text, truncation=False, verbose=False)["input_ids"]] for text in _SAMPLES]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Passage:
    """One text as the model reads it.

    Attributes:
        text: As given; of token ids, what they spell.
        ids: `[pos]` int32.
        start, stop: Range of its own tokens, without special ones that the tokenizer puts around every text.
        pieces: The words of each token; those of its own tokens, one after the other, are the text.
        cut: Whether it was longer than the context, and what lies beyond is left out.
    """

    text: str
    ids: np.ndarray
    start: int
    stop: int
    pieces: tuple[str, ...]
    cut: bool

    def counted(self, pool: str) -> np.ndarray:
        """`[pos]` bool: the tokens that are pooled. The last token counts even if it is a special one, as in `capture`."""
        position = np.arange(len(self.ids))
        return (position >= self.start) & (position < (len(self.ids) if pool == "last" else self.stop))


def read_passages(model: Model, items: Sequence[Item], first: int = 0) -> list[Passage]:
    """Tokenise.

    Args:
        items: Texts, or token ids of each.
        first: Number of the first item, for errors.

    Raises:
        ValueError: a text that is empty or has no token of its own, or a model without a tokenizer.
        TypeError: something that is neither text nor token ids.
    """
    frame = Frame.of(model)
    texts = [(i, item) for i, item in enumerate(items) if isinstance(item, str)]
    for i, text in texts:
        if not text.strip():
            raise ValueError(f"texts[{first + i}] is empty: there is no token to score; leave it out")
    found: dict[int, Passage] = {}
    if texts:
        ids, _ = model.tokenize([text for _, text in texts])
        offsets = _offsets(model, [text for _, text in texts])
        for (i, text), own, where in zip(texts, ids, offsets, strict=True):
            pieces = _named(model, own) if where is None else _cut_up(model, text, own, where[0][: len(own)])
            whole = len(own) if where is None else len(where[0])
            # A slow tokenizer does not say how long the text was: one that fills the context may have been cut.
            cut = whole > len(own) or (where is None and len(own) == model.context)
            found[i] = _passage(text, own, frame, pieces, cut, first + i)
    for i, item in enumerate(items):
        if i not in found:
            given = _as_ids(item, first + i)
            kept = given[: model.context]
            pieces = _named(model, kept)
            found[i] = _passage("".join(pieces), kept, frame, pieces, len(given) > len(kept), first + i)
    return [found[i] for i in range(len(items))]


def words_of(model: Model, ids: Sequence[int] | np.ndarray) -> tuple[str, ...]:
    """What each token spells by itself."""
    return _named(model, np.asarray(ids))


def _passage(text: str, ids: np.ndarray, frame: Frame, pieces: Sequence[str], cut: bool, number: int) -> Passage:
    start, stop = frame.own(ids)
    if start == stop:
        raise ValueError(f"texts[{number}] has no token of its own: there is nothing to score; leave it out")
    return Passage(text, np.asarray(ids, dtype=np.int32), start, stop, tuple(pieces), cut)


def _as_ids(item: Any, number: int) -> np.ndarray:
    ids = np.asarray(item)
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise TypeError(f"texts[{number}] is neither a text nor a list of token ids: {type(item).__name__}")
    if not len(ids):
        raise ValueError(f"texts[{number}] is empty: there is no token to score; leave it out")
    return ids


def _offsets(model: Model, texts: list[str]) -> list[tuple[list[tuple[int, int]]] | None]:
    """Range of characters of each token, before any cut; None from a tokenizer that cannot tell."""
    if not getattr(model.tokenizer, "is_fast", False):
        return [None] * len(texts)
    encoded = model.tokenizer(texts, return_offsets_mapping=True, truncation=False, verbose=False)
    return [([(int(a), int(b)) for a, b in each],) for each in encoded["offset_mapping"]]


def _cut_up(model: Model, text: str, ids: np.ndarray, ranges: list[tuple[int, int]]) -> tuple[str, ...]:
    """The text between the end of one token and that of the next. Tokens without characters (special ones) go by their name.

    Several tokens may share one character (bytes of an emoji): the first of them has it.
    """
    names = _named(model, ids)
    pieces, end = [], 0
    for (start, stop), name in zip(ranges, names, strict=True):
        if stop <= start:
            pieces.append(name)
            continue
        pieces.append(text[end:stop])
        end = max(end, stop)
    return tuple(pieces)


def _named(model: Model, ids: np.ndarray) -> tuple[str, ...]:
    if model.tokenizer is None:
        return tuple(f"{int(i)} " for i in ids)
    return tuple(model.tokenizer.batch_decode([[int(i)] for i in ids]))
