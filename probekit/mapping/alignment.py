"""Which tokens of two tokenizers end at the same character of a text: where two models have read the very same."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from probekit.data import Dataset, as_dataset
from probekit.models import Model

Where = Literal["words", "tokens"]


@dataclass(frozen=True)
class TokenEnds:
    """A text as a model's tokenizer cuts it.

    Attributes:
        ids: `[pos]` int64, special tokens included, cut to the model's context.
        ends: `[pos]` index of the character after the last one of each token; -1 for special tokens that the tokenizer puts
            around the text, and for tokens that hold no character.
        own: First and (exclusive) last position of the text's own tokens.
        cut: Whether the context was too short for the text.
    """

    ids: np.ndarray
    ends: np.ndarray
    own: tuple[int, int]
    cut: bool


def token_ends(model: Model, texts: Sequence[str]) -> list[TokenEnds]:
    """Tokens of texts with the characters they end at.

    Raises:
        TypeError: not texts.
        ValueError: no tokenizer, one that tells no offsets, or a text without a token of its own.
    """
    if isinstance(texts, str):
        raise TypeError("texts is one string; give a list of texts")
    if model.tokenizer is None or not getattr(model.tokenizer, "is_fast", False):
        raise ValueError(
            f"{model.name!r} has no fast tokenizer (one that tells which characters a token stands for): it cannot be aligned with "
            "another model's"
        )
    tokens, _ = model.tokenize(texts)
    said = model.tokenizer(
        list(texts), return_offsets_mapping=True, return_special_tokens_mask=True, truncation=False, verbose=False
    )
    out = []
    for i, ids in enumerate(tokens):
        offsets = np.asarray(said["offset_mapping"][i], np.int64)
        special = np.asarray(said["special_tokens_mask"][i], bool)
        if not np.array_equal(said["input_ids"][i][: len(ids)], ids):
            raise ValueError(f"text {i}: the tokenizer gave other tokens when asked for offsets")
        ends = np.where(special | (offsets[:, 1] <= offsets[:, 0]), -1, offsets[:, 1])[: len(ids)]
        own = np.flatnonzero(~special[: len(ids)])
        if not len(own):
            raise ValueError(f"text {i} ({texts[i]!r}) gives {model.name!r} no token of its own")
        span = (int(own[0]), int(own[-1]) + 1)
        out.append(TokenEnds(ids.astype(np.int64), ends, span, len(special) > len(ids)))
    return out


def common_ends(a: np.ndarray, b: np.ndarray, *, first: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Positions in two lists of ends (-1: none) where tokens end at the same character, ascending; `first`: position 0 too.

    Several tokens may end at the same character: the bytes of one that is not in the vocabulary. The last of them is taken, since
    only it has read all of the character.
    """
    (ends_a, last_a), (ends_b, last_b) = _last_of(a), _last_of(b)
    _, in_a, in_b = np.intersect1d(ends_a, ends_b, assume_unique=True, return_indices=True)
    found_a, found_b = last_a[in_a], last_b[in_b]
    kept = first | ((found_a > 0) & (found_b > 0))
    return found_a[kept], found_b[kept]


def _last_of(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every end once, ascending, and the last position that has it."""
    unique, first = np.unique(ends[::-1], return_index=True)
    last = len(ends) - 1 - first
    return unique[unique >= 0], last[unique >= 0]


def ends_of_words(text: str, ends: np.ndarray) -> np.ndarray:
    """Which of the ends (> 0) are where a run of letters, marks and digits ends, bool."""
    inside = np.array([unicodedata.category(character)[0] in "LMN" for character in text] + [False])
    found: np.ndarray = inside[ends - 1] & ~inside[ends]
    return found


def paired_tokens(
    model_a: Model, model_b: Model, data: Dataset | Sequence[str], at: Where = "words", *, first: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens of two models to capture so that rows pair up: those that end at the same characters of the texts.

        rows_a, rows_b = paired_tokens(model_a, model_b, texts)
        maps = fit(capture(model_a, texts, rows=rows_a), capture(model_b, texts, rows=rows_b))

    Args:
        data: Texts, or a `Dataset` of texts.
        at: `"words"`: only where a word (or number) ends; `"tokens"`: wherever a token of both ends, marks and spaces too.
        first: Whether tokens at position 0 count. Where no special token stands before a text, its first token is one that all
            others attend to, with activations that in many models are hundreds of times larger than any other.

    Returns:
        Two masks, `[token of A]` and `[token of B]` over the concatenated sequences, as `capture(rows=)` takes them; both pick the
        same number of tokens, in the same order.

    Raises:
        ValueError: data of tokens; a model without a fast tokenizer; no token in common.
    """
    texts = as_dataset(data).texts
    if texts is None:
        raise ValueError("this data is tokens already, and no tokenizer's: rows pair up by characters, so give texts")
    if at not in ("words", "tokens"):
        raise ValueError(f"at must be 'words' or 'tokens', got {at!r}")
    masks: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for text, one, two in zip(texts, token_ends(model_a, texts), token_ends(model_b, texts), strict=True):
        in_a, in_b = common_ends(one.ends, two.ends, first=first)
        if at == "words":
            kept = ends_of_words(text, one.ends[in_a])
            in_a, in_b = in_a[kept], in_b[kept]
        for mask, each, found in zip(masks, (one, two), (in_a, in_b), strict=True):
            mask.append(np.isin(np.arange(len(each.ids)), found))
    rows_a, rows_b = (np.concatenate(mask) for mask in masks)
    if not rows_a.any():
        raise ValueError(f"no {'word' if at == 'words' else 'token'} ends at the same character for both tokenizers")
    return rows_a, rows_b
