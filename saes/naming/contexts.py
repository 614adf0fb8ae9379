"""What rows saw, as text: the tokens around a row, the word it stands in, and the word that follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from saes.features import SparseFeatures

Decode: TypeAlias = Callable[[Sequence[int]], Sequence[str]]
"""Token ids to the text of each."""


@dataclass(frozen=True)
class Context:
    """A row among its neighbours.

    Attributes:
        row: Which.
        tokens: Texts of the tokens around it, in order.
        at: Index of the row's own token among them.
        first: Row of the first of them; token `i` is row `first + i`.
    """

    row: int
    tokens: tuple[str, ...]
    at: int
    first: int

    @property
    def rows(self) -> slice:
        """Rows of the tokens."""
        return slice(self.first, self.first + len(self.tokens))

    @property
    def text(self) -> str:
        """All tokens together."""
        return "".join(self.tokens)


class Contexts:
    """The texts behind features that were encoded at every token.

    Args:
        features: From `encode`, of a store that was captured with `pool="all"` and `every=1`.
        decode: A Hugging Face tokenizer, a `Model` that has one, or a function from token ids to their texts.

    Raises:
        TypeError: nothing that decodes.
        ValueError: rows without tokens, or whose neighbours are not there.
    """

    def __init__(self, features: SparseFeatures, decode: Decode | Any) -> None:
        self._features, self._decode = features, decoder(decode)
        if int(features.token.min(initial=0)) < 0:
            raise ValueError(
                "these features are of activations without tokens, so that the text around a row is not known: "
                "ArrayActivations takes token= (and position=)"
            )
        sequence, position = features.sequence, features.position
        same = sequence[1:] == sequence[:-1]
        if bool((np.diff(position)[same] != 1).any()):
            raise ValueError(
                "these features are not of every token, so that the text around a row is not known: capture with "
                'pool="all" and every=1'
            )
        start = np.flatnonzero(np.append(True, ~same))
        length = np.diff(np.append(start, len(sequence)))
        self._start, self._stop = np.repeat(start, length), np.repeat(start + length, length)

    def __len__(self) -> int:
        return len(self._features)

    def of(self, row: int, before: int = 24, after: int = 8) -> Context:
        """The row with up to so many tokens before and after it, within its sequence."""
        first, stop = (int(end[0]) for end in self.span(np.array([row]), before, after))
        return Context(int(row), tuple(self.pieces[self._place[first:stop]]), int(row) - first, first)

    def span(self, rows: np.ndarray, before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
        """`[row]` the first row of each one's context, and the row after its last."""
        return np.maximum(self._start[rows], rows - before), np.minimum(self._stop[rows], rows + after + 1)

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, np.ndarray]:
        return np.unique(self._features.token, return_inverse=True)

    @property
    def _place(self) -> np.ndarray:
        """`[row]` index into `pieces`."""
        return self._distinct[1]

    @cached_property
    def pieces(self) -> np.ndarray:
        """Texts of the distinct tokens that occur, as objects."""
        return np.array([str(text) for text in self._decode(self._distinct[0].tolist())], dtype=object)

    @cached_property
    def words(self) -> tuple[tuple[str, ...], np.ndarray]:
        """`(words, [row] index)`: the whole word each row's token is a part of, lower case, without spaces and marks.

        A token starts a word when its text starts with white space, when it is the first of a sequence, or when it or the one
        before it holds no letter or digit.
        """
        starts_with_space = np.array([text[:1].isspace() for text in self.pieces], bool)
        ends_with_space = np.array([text[-1:].isspace() for text in self.pieces], bool)
        wordless = np.array([not any(map(str.isalnum, text)) for text in self.pieces], bool)
        place = self._place
        begins = starts_with_space[place] | wordless[place]
        begins[1:] |= (wordless | ends_with_space)[place[:-1]]
        begins |= self._start == np.arange(len(place))
        number = begins.cumsum() - 1
        pieces = self.pieces[place]
        whole = ["".join(pieces[a:b]) for a, b in _runs(begins)]
        cleaned = np.array([_cleaned(text) for text in whole], dtype=object)
        distinct, index = np.unique(cleaned.astype(str), return_inverse=True)
        return tuple(distinct.tolist()), index[number]

    @cached_property
    def next_words(self) -> np.ndarray:
        """`[row]` index into `words` of the word of the next token; -1 at the end of a sequence."""
        _, index = self.words
        following = np.append(index[1:], -1)
        following[self._stop - 1 == np.arange(len(index))] = -1
        return following

    def windows(self, block: int = 16) -> tuple[tuple[str, ...], np.ndarray]:
        """`(texts, [row] index)`: the block of tokens a row lies in, with the block before it.

        Windows are shared by all rows of a block, so that a text encoder has to read each token twice and not `block` times.
        """
        offset = (np.arange(len(self)) - self._start) // block
        begins = np.append(True, (np.diff(offset) != 0) | (np.diff(self._start) != 0))
        pieces = self.pieces[self._place]
        texts = ["".join(pieces[max(int(self._start[a]), a - block) : b]).strip() for a, b in _runs(begins)]
        return tuple(texts), begins.cumsum() - 1


def _runs(begins: np.ndarray) -> list[tuple[int, int]]:
    edges = np.append(np.flatnonzero(begins), len(begins))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _cleaned(text: str) -> str:
    text = text.strip().lower()
    first = next((i for i, c in enumerate(text) if c.isalnum()), None)
    if first is None:
        return text
    last = len(text) - next(i for i, c in enumerate(reversed(text)) if c.isalnum())
    return text[first:last]


def decoder(given: Any) -> Decode:
    tokenizer = getattr(given, "tokenizer", given)
    if hasattr(tokenizer, "batch_decode"):
        return lambda ids: _after_a_dot(tokenizer, ids)
    if callable(tokenizer):
        return tokenizer  # type: ignore[no-any-return]
    raise TypeError(f"{given!r} does not decode tokens: pass a tokenizer, a model that has one, or a function")


def _after_a_dot(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Texts of tokens as they stand inside a text: alone, some tokenizers drop the space that a token starts with."""
    dot = tokenizer.encode(".", add_special_tokens=False)
    known = len(tokenizer.decode(dot))
    return [
        text[known:] for text in tokenizer.batch_decode([[*dot, i] for i in ids], clean_up_tokenization_spaces=False)
    ]
