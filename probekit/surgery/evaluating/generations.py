"""Greedy continuations of prompts, and their scores."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probekit.models import Model
from probekit.surgery.evaluating.behaviour import SELECT, Behaviour, Prompt, all_text, as_scores
from probekit.surgery.evaluating.running import continuations, prompt_ids

Scorer = Callable[[list[str]], Sequence[float | None]]


@dataclass(frozen=True)
class Lexicon:
    """Scores texts by the share of their words that are in a list, or by whether any is. See `lexicon`."""

    words: frozenset[str]
    any: bool = False

    @property
    def unit(self) -> str:
        return "share of texts with a listed word" if self.any else "share of words that are listed"

    @property
    def unit_range(self) -> bool:
        return True

    def __call__(self, texts: list[str]) -> list[float | None]:
        scores: list[float | None] = []
        for text in texts:
            hits = [word in self.words for word in _words(text)]
            if self.any:
                scores.append(float(any(hits)))
            else:
                scores.append(sum(hits) / len(hits) if hits else None)
        return scores


def lexicon(words: Sequence[str], *, any: bool = False) -> Lexicon:
    """A scorer of texts: the share of a text's words that are in a list; None for a text without a word.

    Args:
        words: Single words; case does not matter.
        any: 1 where the text has any of them, 0 where it has none.

    Raises:
        ValueError: no words, or an entry that is more than one word.
    """
    known = frozenset(word.lower() for word in words)
    if not known:
        raise ValueError("the lexicon has no words")
    for word in sorted(known):
        if _words(word) != [word]:
            raise ValueError(f"{word!r} is not a single word, so no word of a text can be it")
    return Lexicon(known, any)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


@dataclass(frozen=True)
class Generated:
    """Continuations of the prompts: their tokens (with the one that ends the text) and their text (without it)."""

    ids: tuple[np.ndarray, ...]
    texts: tuple[str, ...]


class Generations(Behaviour):
    """See `generations`.

    Attributes:
        last: What the last `measure` generated, for the side effects that read it.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        scorer: Scorer | None,
        *,
        max_new_tokens: int,
        batch: int,
        prefix: str | None,
        name: str,
        unit: str | None,
        less_is_wanted: bool,
        **split: Any,
    ) -> None:
        unit = unit or str(getattr(scorer, "unit", "score"))
        super().__init__(name, unit, prompts, less_is_wanted=less_is_wanted, **split)
        self.unit_range = bool(getattr(scorer, "unit_range", False))
        self.scorer, self.most, self.batch, self.prefix = scorer, max_new_tokens, batch, prefix
        self.last: Generated | None = None
        self._made: dict[str | bytes, Generations] = {}  # by prefix, or by items, so that all who read this share them
        self._key += [_said(scorer), max_new_tokens, batch, prefix]

    def prompt_pieces(self, model: Model, *, prefix: bool = True) -> list[np.ndarray]:
        """Token ids of the prompts, with the prefix before them or without."""
        before = self.prefix if prefix else None
        texts = [before + item if before and isinstance(item, str) else item for item in self.items]
        return prompt_ids(model, texts)

    def generate(self, model: Model) -> Generated:
        """Continue the prompts; changes nothing here."""
        made = continuations(model, self.prompt_pieces(model), self.most, self.batch)
        if model.tokenizer is None:
            return Generated(tuple(made), tuple(" ".join(map(str, ids)) for ids in made))
        return Generated(
            tuple(made), tuple(model.tokenizer.decode(ids.tolist(), skip_special_tokens=True) for ids in made)
        )

    def measure(self, model: Model) -> np.ndarray:
        self.last = self.generate(model)
        if self.scorer is None:
            return np.zeros(len(self))
        return as_scores(self.scorer(list(self.last.texts)), len(self), self.name)

    def with_prefix(self, prefix: str) -> Generations | None:
        if not all_text(self.items):
            return None
        if prefix not in self._made:
            self._made[prefix] = self._copy(prefix=prefix + (self.prefix or ""), _made={}, last=None)
        return self._made[prefix]

    def _of_items(self, rows: np.ndarray) -> Generations:
        if rows.tobytes() not in self._made:
            other = super()._of_items(rows)
            other._made, other.last = {}, None
            self._made[rows.tobytes()] = other
        return self._made[rows.tobytes()]


def generations(
    prompts: Sequence[Prompt],
    scorer: Scorer | None = None,
    *,
    max_new_tokens: int = 40,
    batch: int = 16,
    prefix: str | None = None,
    name: str = "score of the continuations",
    unit: str | None = None,
    less_is_wanted: bool = False,
    groups: object = None,
    seed: int = 0,
    select: float = SELECT,
) -> Generations:
    """Continue prompts with the most likely tokens and score the texts.

    Args:
        prompts: Texts, or token ids a prompt. Special tokens that a tokenizer puts after a text are left out, before it kept.
        scorer: From a list of texts to a score each, None where it has none (which counts as failed, not as zero); see
            `lexicon`. Left out, the texts are only made, for the side effects that read them.
        max_new_tokens: Tokens a continuation has at most.
        batch: Prompts at a time; they are padded on the left.
        prefix: Text put before every prompt.
        name, unit, less_is_wanted: See `Behaviour`.
        groups: One value a prompt: prompts of one group stay together.
        seed, select: Of the division into the part that strengths are chosen on and the one that is reported.
    """
    return Generations(
        prompts, scorer, max_new_tokens=max_new_tokens, batch=batch, prefix=prefix, name=name, unit=unit,
        less_is_wanted=less_is_wanted, groups=groups, seed=seed, select=select,
    )  # fmt: skip


class OfGenerations(Behaviour):
    """Of the texts that another behaviour generated last."""

    source: Generations

    def __init__(self, source: Generations, name: str, unit: str, less_is_wanted: bool) -> None:
        super().__init__(name, unit, source.items, less_is_wanted=less_is_wanted)
        self.source = source
        self.groups, self.in_select = source.groups, source.in_select
        self._key += [source.describe()["digest"]]

    @property
    def _last(self) -> Generated:
        if self.source.last is None:
            raise ValueError(f"{self.name}: nothing was generated yet; measure the generations first")
        return self.source.last

    def with_prefix(self, prefix: str) -> Any:
        source = self.source.with_prefix(prefix)
        return None if source is None else self._copy(source=source)

    def _of_items(self, rows: np.ndarray) -> Any:
        other = super()._of_items(rows)
        other.source = self.source._of_items(rows)
        return other


class Rescored(OfGenerations):
    """See `rescored`."""

    def __init__(self, source: Generations, scorer: Scorer, name: str, unit: str | None, less_is_wanted: bool) -> None:
        super().__init__(source, name, unit or str(getattr(scorer, "unit", "score")), less_is_wanted)
        self.unit_range = bool(getattr(scorer, "unit_range", False))
        self.scorer = scorer
        self._key.append(_said(scorer))

    def measure(self, model: Model) -> np.ndarray:
        return as_scores(self.scorer(list(self._last.texts)), len(self), self.name)


def rescored(
    source: Generations,
    scorer: Scorer,
    *,
    name: str = "another score of the continuations",
    unit: str | None = None,
    less_is_wanted: bool = False,
) -> Rescored:
    """Another score of the same continuations, without generating them again.

    Args:
        source: Whose texts.
        scorer, name, unit, less_is_wanted: As in `generations`.
    """
    return Rescored(source, scorer, name, unit, less_is_wanted)


def told_apart(function: object) -> str:
    """Words that differ where functions do: name, code, and the numbers, strings and arrays they close over or hold.

    What else they hold (a classifier, a list that grows) cannot be told apart here.
    """
    called = vars(type(function)).get("__call__")
    code = getattr(function, "__code__", None) or getattr(called, "__code__", None)
    held = [getattr(cell, "cell_contents", None) for cell in getattr(function, "__closure__", None) or ()]
    own = sorted(getattr(function, "__dict__", {}).items())
    plain = [_plain(value) for value in (*held, *own) if _is_plain(value)]
    name = getattr(function, "__qualname__", type(function).__name__)
    written = None if code is None else (code.co_code.hex(), [c for c in code.co_consts if _is_plain(c)], code.co_names)
    return repr((name, written, plain))


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | bytes | int | float | np.ndarray | torch.Tensor)


def _plain(value: Any) -> object:
    """The same, with arrays as digests of their numbers."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy() if value.is_floating_point() else value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        whole = repr(value.tolist()) if value.dtype.hasobject else np.ascontiguousarray(value).tobytes().hex()
        return str(value.dtype), value.shape, hashlib.sha256(whole.encode()).hexdigest()
    return value


def _said(scorer: Scorer | None) -> str:
    """What tells scorers apart: the words of a lexicon, else what the function is and has to do with."""
    if isinstance(scorer, Lexicon):
        return f"lexicon {sorted(scorer.words)} {scorer.any}"
    return told_apart(scorer)
