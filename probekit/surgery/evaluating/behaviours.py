"""What an edit may be meant to change: next tokens, answers to choices, and anything else that has a score an item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from probekit.models import Model
from probekit.surgery.evaluating.behaviour import SELECT, Behaviour, Prompt, all_text, as_scores
from probekit.surgery.evaluating.generations import generations, lexicon, rescored, told_apart
from probekit.surgery.evaluating.readings import reading
from probekit.surgery.evaluating.running import Piece, first_token, logits_of, losses, pieces, prompt_ids

__all__ = ["choices", "custom", "generations", "lexicon", "next_token", "reading", "rescored"]


class NextToken(Behaviour):
    """See `next_token`."""

    def __init__(self, prompts: Sequence[Prompt], wanted: Sequence[str | int], unwanted: Sequence[str | int] | None, **options: Any) -> None:  # fmt: skip
        if isinstance(wanted, str) or isinstance(unwanted, str) or not len(wanted) or (unwanted is not None and not len(unwanted)):  # fmt: skip
            raise ValueError("wanted and unwanted are lists of tokens that are not empty")
        super().__init__(unit="nats of log odds", items=prompts, **options)
        self.wanted, self.unwanted, self.prefix = list(wanted), None if unwanted is None else list(unwanted), ""
        self._key += [self.wanted, self.unwanted]

    def measure(self, model: Model) -> np.ndarray:
        wanted = sorted({first_token(model, token) for token in self.wanted})
        unwanted = None if self.unwanted is None else sorted({first_token(model, token) for token in self.unwanted})
        if unwanted is not None and set(wanted) & set(unwanted):
            raise ValueError(f"token {min(set(wanted) & set(unwanted))} is both wanted and unwanted (the first token of a word counts)")  # fmt: skip
        texts = [self.prefix + item if self.prefix and isinstance(item, str) else item for item in self.items]
        scores = np.full(len(self), np.nan)
        for i, logits in logits_of(model, pieces(model, texts, closed=False)):
            last = logits[-1].double()
            if unwanted is None:
                rest = torch.ones(len(last), dtype=torch.bool, device=last.device)
                rest[wanted] = False
                against = last[rest].logsumexp(0)
            else:
                against = last[unwanted].logsumexp(0)
            scores[i] = float(last[wanted].logsumexp(0) - against)
        return np.where(np.isfinite(scores), scores, np.nan)

    def with_prefix(self, prefix: str) -> NextToken | None:
        return self._copy(prefix=prefix + self.prefix) if all_text(self.items) else None


def next_token(
    prompts: Sequence[Prompt],
    wanted: Sequence[str | int],
    unwanted: Sequence[str | int] | None = None,
    *,
    name: str = "next token",
    less_is_wanted: bool = False,
    groups: object = None,
    seed: int = 0,
    select: float = SELECT,
) -> NextToken:
    """Log odds, in nats, that the token after a prompt is one of some tokens rather than one of others.

    Args:
        prompts: Texts, or token ids a prompt.
        wanted: Tokens: ids, or texts, of which the first token counts (mind the space before a word: `" yes"`).
        unwanted: The others; every other token when left out.
        name, less_is_wanted, groups, seed, select: As in `generations`.

    Raises:
        ValueError: no tokens, or one that is on both sides.
    """
    options = {"name": name, "less_is_wanted": less_is_wanted, "groups": groups, "seed": seed, "select": select}
    return NextToken(prompts, wanted, unwanted, **options)


class Choices(Behaviour):
    """See `choices`."""

    unit_range = True

    def __init__(
        self,
        prompts: Sequence[str],
        options: Sequence[str] | Sequence[Sequence[str]],
        answers: Sequence[int | str],
        **split: Any,
    ) -> None:
        lists: Sequence[Any] = [options] * len(prompts) if all_text(options) else options
        each: list[list[str]] = [list(some) for some in lists]
        if len(each) != len(prompts) or len(answers) != len(prompts):
            raise ValueError(
                f"{len(prompts)} prompts, {len(each)} lists of options and {len(answers)} answers: give one a prompt"
            )
        self.right = [_answer(answer, some, i) for i, (answer, some) in enumerate(zip(answers, each, strict=True))]
        super().__init__(unit="share right", items=prompts, **split)
        self.options, self.prefix = each, ""
        self._key += [each, self.right]

    def measure(self, model: Model) -> np.ndarray:
        given = [
            _option_piece(model, self.prefix + prompt, option, i)
            for i, (prompt, some) in enumerate(zip(self.items, self.options, strict=True))
            for option in some
        ]
        likely = -losses(model, given)[0]
        ends = np.cumsum([len(some) for some in self.options])
        scores = np.full(len(self), np.nan)
        for i, own in enumerate(np.split(likely, ends[:-1])):
            if np.isfinite(own).all():
                scores[i] = float(own.argmax() == self.right[i])
        return scores

    def with_prefix(self, prefix: str) -> Choices:
        other: Choices = self._copy(prefix=prefix + self.prefix)
        return other

    def _of_items(self, rows: np.ndarray) -> Any:
        other = super()._of_items(rows)
        other.options, other.right = ([each[i] for i in rows] for each in (self.options, self.right))
        return other


def choices(
    prompts: Sequence[str],
    options: Sequence[str] | Sequence[Sequence[str]],
    answers: Sequence[int | str],
    *,
    name: str = "accuracy",
    less_is_wanted: bool = False,
    groups: object = None,
    seed: int = 0,
    select: float = SELECT,
) -> Choices:
    """Whether the model finds the right one of several options most likely (sum of log-likelihoods of its tokens).

    Args:
        prompts: Texts that the options continue.
        options: A list for all prompts (`[" true", " false"]`, mind the space), or one a prompt.
        answers: Index or text of the right one.
        name, less_is_wanted, groups, seed, select: As in `generations`.

    Raises:
        ValueError: lengths that do not fit, fewer than two options, or an answer that is none of them.
    """
    split = {"name": name, "less_is_wanted": less_is_wanted, "groups": groups, "seed": seed, "select": select}
    return Choices(prompts, options, answers, **split)


def _answer(answer: int | str, options: Sequence[str], i: int) -> int:
    if len(options) < 2 or len(set(options)) < len(options):
        raise ValueError(f"prompt {i} needs two different options or more, got {list(options)}")
    if isinstance(answer, str):
        if answer not in options:
            raise ValueError(f"prompt {i}: the answer {answer!r} is none of the options {list(options)}")
        return list(options).index(answer)
    if not 0 <= int(answer) < len(options):
        raise ValueError(f"prompt {i}: no option {answer}, there are {len(options)}")
    return int(answer)


def _option_piece(model: Model, prompt: str, option: str, i: int) -> Piece:
    """Prompt and option as one text, in which the tokens count that the option changes or adds."""
    whole, alone = prompt_ids(model, [prompt + option, prompt])
    same = np.minimum(len(whole), len(alone))
    differs = np.flatnonzero(whole[:same] != alone[:same])
    start = int(differs[0]) if len(differs) else int(same)
    if start >= len(whole):
        raise ValueError(f"prompt {i}: the option {option!r} adds no token")
    return Piece(whole, start, len(whole), max(start, 1), i)


class Custom(Behaviour):
    """See `custom`."""

    def __init__(self, name: str, items: Sequence[object], function: Callable[[Model], Any], **options: Any) -> None:
        super().__init__(name, items=items, **options)
        self.function = function
        self._rows: np.ndarray | None = None
        self._all = len(self)
        self._key.append(told_apart(function))

    def measure(self, model: Model) -> np.ndarray:
        scores = as_scores(self.function(model), self._all, self.name)
        return scores if self._rows is None else scores[self._rows]

    def _of_items(self, rows: np.ndarray) -> Any:
        other = super()._of_items(rows)
        other._rows = rows if self._rows is None else self._rows[rows]
        return other


def custom(
    name: str,
    items: Sequence[object],
    function: Callable[[Model], Sequence[float | None] | np.ndarray],
    *,
    unit: str = "score",
    less_is_wanted: bool = False,
    groups: object = None,
    seed: int = 0,
    select: float = SELECT,
) -> Custom:
    """Anything else that can be scored item by item.

    Args:
        items: What is scored; only their number, and which of them are equal, matters here.
        function: From the model as it is at the time to `[item]` scores, None or NaN where an item could not be scored.
        unit, less_is_wanted, groups, seed, select: As in `generations`.
    """
    options = {"unit": unit, "less_is_wanted": less_is_wanted, "groups": groups, "seed": seed, "select": select}
    return Custom(name, items, function, **options)
