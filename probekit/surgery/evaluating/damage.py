"""What an edit breaks: perplexity and next tokens of other text, repetition, coherence of what it says.

A side effect is a `Behaviour` that should stay as it is, so that it is measured in the same way and compared in pairs, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from probekit.models import Model
from probekit.surgery.evaluating.behaviour import SELECT, Behaviour, Prompt, all_text
from probekit.surgery.evaluating.generations import Generations, OfGenerations
from probekit.surgery.evaluating.harness import lm_eval_tasks
from probekit.surgery.evaluating.readings import other_probes
from probekit.surgery.evaluating.running import Piece, logits_of, losses, pieces

__all__ = [
    "agreement",
    "coherence",
    "lm_eval_tasks",
    "next_token_kl",
    "other_probes",
    "perplexity",
    "repetition",
]


class Perplexity(Behaviour):
    """See `perplexity`. A score is the mean negative log-likelihood of a text's tokens, and its weight their number."""

    compare: Literal["difference", "ratio"] = "ratio"

    def __init__(self, texts: Sequence[Prompt], tokens: int, **options: Any) -> None:
        super().__init__(unit="per token", items=texts, less_is_wanted=True, **options)
        if tokens < 2:
            raise ValueError(f"a window needs two tokens or more, not {tokens}")
        self.tokens, self.prefix = tokens, ""
        self._key.append(tokens)

    def measure(self, model: Model) -> np.ndarray:
        given = pieces(model, self.items, window=_window(model, self.tokens), prefix=self.prefix or None)
        lost, count = losses(model, given)
        item = np.array([piece.item for piece in given])
        total = np.bincount(item, lost, len(self))
        self._weights = np.bincount(item, count, len(self))
        return np.where(self._weights > 0, total / np.maximum(self._weights, 1), np.nan)

    def with_prefix(self, prefix: str) -> Perplexity | None:
        return self._copy(prefix=prefix + self.prefix) if all_text(self.items) else None


def perplexity(
    texts: Sequence[Prompt],
    tokens: int = 256,
    *,
    name: str = "perplexity",
    groups: object = None,
    seed: int = 0,
    select: float = SELECT,
) -> Perplexity:
    """Perplexity of ordinary text; edited over plain, a ratio of 1 is no damage.

    Args:
        texts: That have nothing to do with the edit, or token ids a text.
        tokens: Length of the windows that a text is cut into.
        name, groups, seed, select: As in `generations`.
    """
    return Perplexity(texts, tokens, name=name, groups=groups, seed=seed, select=select)


class NextTokenKL(Behaviour):
    """See `next_token_kl`."""

    def __init__(self, texts: Sequence[Prompt], most_tokens: int, tokens: int, **options: Any) -> None:
        super().__init__(unit="nats", items=texts, less_is_wanted=True, **options)
        self.each, self.tokens, self.prefix = max(1, most_tokens // len(self)), tokens, ""
        self._plain: dict[int, torch.Tensor] = {}
        self._key += [most_tokens, tokens]

    def prepare(self, model: Model) -> None:
        self._plain.clear()
        self._plain.update(self._log_probs(model, self._chosen(model)))
        self._weights = np.array([len(self._plain[i]) for i in range(len(self))], np.float64)

    def forget(self) -> None:
        self._plain.clear()

    def measure(self, model: Model) -> np.ndarray:
        if not self._plain:
            raise ValueError(f"{self.name}: call prepare(model) on the plain model first; the divergence is from that")
        scores = np.full(len(self), np.nan)
        for i, logits in self._each(model, self._chosen(model)):
            plain = self._plain[i].to(logits.device)
            apart = plain - torch.log_softmax(logits, -1)
            kl = torch.where(plain > -torch.inf, plain.exp() * apart, 0).sum(-1, dtype=torch.float64)
            scores[i] = float(kl.mean())
        return np.where(np.isfinite(scores), scores, np.nan)

    def with_prefix(self, prefix: str) -> NextTokenKL | None:
        return self._copy(prefix=prefix + self.prefix) if all_text(self.items) else None

    def _of_items(self, rows: np.ndarray) -> Any:
        other = super()._of_items(rows)
        other._plain = {}
        return other

    def _chosen(self, model: Model) -> list[tuple[Piece, np.ndarray]]:
        """The first window of each text, and which of its tokens count: evenly spread, as many of each text."""
        window = _window(model, self.tokens)
        given = pieces(model, self.items, window=window, prefix=self.prefix or None)
        first = {piece.item: piece for piece in reversed(given)}
        out = []
        for i in range(len(self)):
            at = first[i].predicted
            if not len(at):
                raise ValueError(f"{self.name}: text {i} is one token long, and nothing predicts it")
            out.append(
                (first[i], at[np.unique(np.linspace(0, len(at) - 1, min(self.each, len(at))).round().astype(int))])
            )
        return out

    def _each(self, model: Model, chosen: list[tuple[Piece, np.ndarray]]) -> Any:
        for i, logits in logits_of(model, [piece for piece, _ in chosen]):
            yield i, logits[chosen[i][1] - 1]

    def _log_probs(self, model: Model, chosen: list[tuple[Piece, np.ndarray]]) -> dict[int, torch.Tensor]:
        return {i: torch.log_softmax(logits, -1).cpu() for i, logits in self._each(model, chosen)}


def next_token_kl(
    texts: Sequence[Prompt],
    most_tokens: int = 2048,
    *,
    tokens: int = 256,
    name: str = "next-token KL",
    groups: object = None,
    seed: int = 0,
    select: float = SELECT,
) -> NextTokenKL:
    """KL divergence, in nats, of the edited model's next-token distribution from the plain model's, over ordinary text.

    Args:
        texts: As in `perplexity`.
        most_tokens: Tokens looked at, evenly spread over all texts; the plain model's log-probabilities of each are kept in
            float32 while measuring (`most_tokens * vocabulary * 4` bytes).
        tokens: Tokens of a text that are read at most.
        name, groups, seed, select: As in `generations`.
    """
    return NextTokenKL(texts, most_tokens, tokens, name=name, groups=groups, seed=seed, select=select)


class Repetition(OfGenerations):
    """See `repetition`."""

    unit_range = True

    def __init__(self, source: Generations, n: int, name: str) -> None:
        super().__init__(source, name, f"share of {n}-grams that repeat", less_is_wanted=True)
        self.n = n
        self._key.append(n)

    def measure(self, model: Model) -> np.ndarray:
        return np.array([_repeated(ids.tolist(), self.n) for ids in self._last.ids])


def repetition(source: Generations, n: int = 4, *, name: str = "repetition") -> Repetition:
    """Share of a generated text's n-grams of tokens that stand in it before; no score for a text too short to have one."""
    return Repetition(source, n, name)


def _repeated(ids: list[int], n: int) -> float:
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else float("nan")


class Coherence(OfGenerations):
    """See `coherence`."""

    def __init__(self, source: Generations, name: str) -> None:
        super().__init__(source, name, "nats a token", less_is_wanted=True)

    def measure(self, model: Model) -> np.ndarray:
        return np.full(len(self), np.nan)  # judged by the plain model, in `finish`

    def finish(self, model: Model, scores: np.ndarray) -> np.ndarray:
        given = [
            Piece(np.concatenate([prompt, new]), len(prompt), len(prompt) + len(new), max(len(prompt), 1), i)
            for i, (prompt, new) in enumerate(
                zip(self.source.prompt_pieces(model, prefix=False), self._last.ids, strict=True)
            )
        ]
        lost, count = losses(model, given)
        return np.where(count > 0, lost / np.maximum(count, 1), np.nan)


def coherence(source: Generations, *, name: str = "incoherence") -> Coherence:
    """How unlikely the plain model finds what the edited one generates: negative log-likelihood a token, after the prompt."""
    return Coherence(source, name)


class Agreement(OfGenerations):
    """See `agreement`."""

    unit_range = True

    def __init__(self, source: Generations, name: str) -> None:
        super().__init__(source, name, "share of tokens", less_is_wanted=False)
        self._plain: list[np.ndarray] = []

    def prepare(self, model: Model) -> None:
        self._plain[:] = self.source.generate(model).ids

    def measure(self, model: Model) -> np.ndarray:
        if not self._plain:
            raise ValueError(f"{self.name}: call prepare(model) on the plain model first; the agreement is with that")
        return np.array(
            [_same(plain, new) / len(plain) for plain, new in zip(self._plain, self._last.ids, strict=True)]
        )

    def _of_items(self, rows: np.ndarray) -> Any:
        other = super()._of_items(rows)
        other._plain = []
        return other


def agreement(source: Generations, *, name: str = "agreement with the plain text") -> Agreement:
    """Share of the plain model's continuation that stands before the first token that is different."""
    return Agreement(source, name)


def _same(one: np.ndarray, other: np.ndarray) -> int:
    most = min(len(one), len(other))
    differs = np.flatnonzero(one[:most] != other[:most])
    return int(differs[0]) if len(differs) else most


def _window(model: Model, tokens: int) -> int:
    """Own tokens a window has: as asked for, if they fit the context beside a special token or two."""
    return tokens if model.context is None else max(2, min(tokens, model.context - 2))
