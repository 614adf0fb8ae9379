"""What a direction moves: the next token, what probes read later, the legal moves; and intervals over sequences."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from worlds import World

import probekit as pk
from probekit.probes import Direction
from probekit.surgery import ActivationEdit, steer
from probekit.testbeds import othello

BATCH = 128


class LastToken:
    """Runs the last token of many sequences again and again, under one edit after the other.

    What comes before is run once, without an edit, and kept in the model's cache: an edit of the last token cannot change it.

    Args:
        tokens: Sequences of two tokens or more.
        later: Site to read.
    """

    def __init__(self, model: pk.Model, tokens: list[np.ndarray], later: str) -> None:
        self.model, self.later = model, later
        self._order: list[np.ndarray] = []
        self._batches: list[dict[str, object]] = []
        # The argument was renamed in the course of transformers 5.
        names = inspect.signature(model.hf.forward).parameters
        self._cache = "cache" if "cache" in names else "past_key_values"
        order = np.argsort([len(t) for t in tokens], kind="stable")
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            longest = max(len(tokens[i]) for i in rows)
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            mask = torch.zeros(len(rows), longest, dtype=torch.long)
            for k, i in enumerate(rows):  # padded on the left, so that last tokens stand together
                ids[k, longest - len(tokens[i]) :] = torch.from_numpy(tokens[i].astype(np.int64))
                mask[k, longest - len(tokens[i]) :] = 1
            place = (mask.cumsum(1) - 1).clamp(min=0)
            with torch.no_grad():
                before = model.hf(
                    input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=place[:, :-1], use_cache=True
                )
            self._order.append(rows)
            self._batches.append(
                {
                    "input_ids": ids[:, -1:],
                    "attention_mask": mask,
                    "position_ids": place[:, -1:],
                    self._cache: before[self._cache],
                }
            )

    def run(self, edit: ActivationEdit | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Activations at the later site `[row, d]`, and log-probabilities of the next token `[row, vocabulary]`."""
        rows = np.concatenate(self._order)
        seen: list[Tensor] = []
        logits: list[Tensor] = []

        def keep(h: Tensor) -> Tensor:
            seen.append(h[:, -1].float())
            return h

        with ExitStack() as on, torch.no_grad():
            if edit is not None:
                on.enter_context(edit.applied(self.model))
            on.enter_context(ActivationEdit("read", self.model, {self.later: keep}).applied(self.model))
            for given in self._batches:
                out = self.model.hf(**given, use_cache=True)
                logits.append(out.logits[:, -1].float().log_softmax(-1))
                given[self._cache].crop(-1)
        back = np.argsort(rows)
        return torch.cat(seen).numpy()[back], torch.cat(logits).numpy()[back]


@dataclass(frozen=True)
class Effect:
    """What steps of one length along a direction do, the mean of both ways.

    Attributes:
        length: Of the step.
        kl: `[row]` nats, from the plain to the steered next-token distribution.
        moved: `[row, label]` change of the later probe's reading along the direction (half of forth less back), in standard
            deviations of that reading.
        carried: `[label]` the same if the step were handed on as it is, and nothing in between answered it.
        error: `[row]` errors of the legal moves, more than without the edit; None for texts.
        said: `[row, said]` change of the log odds of what may be said next, likewise, in nats.
        shift: `[2, vocabulary]` change of log-probability, likewise, in the two halves of the rows.
    """

    length: float
    kl: np.ndarray
    moved: np.ndarray
    carried: np.ndarray
    error: np.ndarray | None
    said: np.ndarray
    shift: np.ndarray


class Judge:
    """Measures directions of a world on the part of the data that is for it.

    Attributes:
        choose: `[row]` bool: rows on which it is chosen which label a direction moves; what it moves is reported on the others.
        auroc: `[label]` of the later probes on the rows measured.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.run = LastToken(world.model, world.tokens, world.later).run
        result = pk.sweep(*world.read, "labels", sites=[world.later], controls=False, seed=seed, n_boot=200, progress=False)  # fmt: skip
        stack = result.probes["labels"][world.later]
        self.weights, offset = stack.coef[:, 0].numpy(), stack.intercept[:, 0].numpy()
        self.later, self.plain = self.run()
        self.p = np.exp(self.plain)
        self.defined = world.values >= 0
        reading = self.later @ self.weights.T + offset
        self.spread = np.array([reading[d, i].std() for i, d in enumerate(self.defined.T)])
        self.auroc = np.array(
            [auroc(reading[d, i], world.values[d, i] == 1) for i, d in enumerate(self.defined.T)]
        )  # fmt: skip
        groups, self.group = np.unique(world.group, return_inverse=True)
        self.choose = (np.random.default_rng(seed).permutation(len(groups)) % 2 == 0)[self.group]
        self.plain_error = None if world.legal is None else othello.set_errors(self.plain, world.legal)

    def effect(self, direction: Direction, length: float) -> Effect:
        """Of a step so long, forth and back."""
        (forth, up), (back, down) = both_ways(self.run, self.world.model, direction, length)
        kl = np.mean([(self.p * (self.plain - steered)).sum(1).clip(min=0) for steered in (up, down)], 0)
        legal, error = self.world.legal, None
        if legal is not None:
            error = np.mean([othello.set_errors(steered, legal) for steered in (up, down)], 0) - self.plain_error
        change = (up - down) / 2
        return Effect(
            length,
            kl,
            (forth - back) / 2 @ self.weights.T / self.spread,
            length * direction.vector.numpy() @ self.weights.T / self.spread,
            error,
            (self.odds(up) - self.odds(down)) / 2,
            np.stack([change[self.choose].mean(0), change[~self.choose].mean(0)]),
        )

    def odds(self, logp: np.ndarray) -> np.ndarray:
        """`[row, said]` log odds of what may be said next."""
        found = []
        for wanted, against in self.world.said.values():
            p = np.exp(logp[:, wanted].astype(np.float64)).sum(1)
            other = np.exp(logp[:, against].astype(np.float64)).sum(1) if against else 1 - p
            found.append(np.log(p.clip(1e-30)) - np.log(other.clip(1e-30)))
        return np.stack(found, 1)


def both_ways(
    run: Callable[[ActivationEdit], tuple[np.ndarray, np.ndarray]],
    model: pk.Model,
    direction: Direction,
    length: float,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What `LastToken.run` gives for a step forth, and for one back."""
    assert direction.scale is not None
    edit = steer(direction, model, length / direction.scale)
    with quiet():
        return [run(edit), run(edit.remade(strength=-length / direction.scale))]


def kl_from(plain: np.ndarray, steered: np.ndarray) -> np.ndarray:
    """`[row]` nats, of log-probabilities `[row, vocabulary]`."""
    found: np.ndarray = (np.exp(plain) * (plain - steered)).sum(1).clip(min=0)
    return found


class Draws:
    """A bootstrap over groups of rows: every mean comes as its value, followed by what it is in each draw.

    Args:
        rows: `[row]` bool: which rows count.
    """

    def __init__(self, group: np.ndarray, rows: np.ndarray, draws: int, seed: int) -> None:
        self.rows = rows
        names, index = np.unique(group[rows], return_inverse=True)
        rng = np.random.default_rng(seed)
        picks = rng.integers(0, len(names), (draws, len(names)))
        counts = np.stack([np.bincount(one, minlength=len(names)) for one in picks])
        self.weights = np.concatenate([np.ones((1, len(index))), counts[:, index]])

    def mean(self, values: np.ndarray, defined: np.ndarray | None = None) -> np.ndarray:
        """`[1 + draw, ...]` means of `[row, ...]` values over the rows where they are defined."""
        some = values[self.rows].astype(np.float64)
        known = np.ones_like(some) if defined is None else defined[self.rows].astype(np.float64)
        flat = (some * known).reshape(len(some), -1)
        found = (self.weights @ flat) / np.maximum(self.weights @ known.reshape(len(some), -1), 1e-12)
        return found.reshape(len(self.weights), *values.shape[1:])


def interval(draws: np.ndarray) -> tuple[float, float, float]:
    """Value and ends of the 95 % interval of what `Draws.mean` gives, or what is computed from it."""
    low, high = np.quantile(draws[1:], (0.025, 0.975))
    return float(draws[0]), float(min(low, draws[0])), float(max(high, draws[0]))


def auroc(score: np.ndarray, holds: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(holds, score)) if 0 < holds.sum() < len(holds) else float("nan")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning that a step is longer than the activations: how long steps are stands in the tables."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*times as long as the activations")
        yield
