"""Does the model act on the state that probes read? Turn the robot inside the hidden state and look at the next action.

After a word of a program the robot has turned by so much, has so much of a turn to go, and its place at the end lies so many steps ahead and to the
right: `turned`, `turn_to_go` and `to_go`, which are the same in all examples. A turn on the spot changes all of them in a known way. The push is the
shortest vector that moves, for each of the four, the margin of its probe "new class over true class" from `-m` to `(2 * strength - 1) * m`, so that
strength 1 mirrors what they read.

What is then measured is in `effects.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from meanings import accuracy
from torch import Tensor

import probekit as pk
from probekit.surgery import ActivationEdit
from probekit.testbeds import karel
from probekit.testbeds.karel.labels import FAR, TURNS
from probekit.testbeds.karel.language import MOVE, TURN_LEFT, TURN_RIGHT
from probekit.testbeds.karel.tokens import FIRST_WORD, PAD, PROGRAM, Encoding
from saes.overlap import random_directions

BATCH = 200
READ = ("turned", "turn_to_go", "to_go")
"""Label sets that are pushed; the last has two targets."""


@dataclass(frozen=True)
class Places:
    """Prefixes of programs.

    Attributes:
        tokens: `[place, position]` int64: the sequence up to the word, padded on the left with 0.
        length: `[place]` tokens of each.
        now: `[place, target]` classes of the targets of `READ` after the word.
        group: `[place]` what the program does (`karel.behaviours`).
    """

    tokens: np.ndarray
    length: np.ndarray
    now: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.length)

    def take(self, rows: np.ndarray) -> Places:
        return Places(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def ahead(self) -> np.ndarray:
        """`[place]`: whether the place at the end lies ahead (1), behind (-1) or neither (0)."""
        return np.sign(self.now[:, 2] - FAR)

    @property
    def side(self) -> np.ndarray:
        """`[place]`: whether it lies to the right (1), to the left (-1) or to neither side (0)."""
        return np.sign(self.now[:, 3] - FAR)


def places_in(problems: karel.Problems, encoding: Encoding, seed: int) -> Places:
    """One place in each program, after any word but the last."""
    rng = np.random.default_rng([seed, 0x9145])
    n = len(problems)
    tokens, lengths = karel.encode(problems, encoding)
    begins = (tokens == PROGRAM).argmax(1)
    words = 1 + (rng.random(n) * ((problems.programs >= 0).sum(1) - 1)).astype(np.int64)
    length = begins + 1 + words
    at = np.arange(length.max()) - (length.max() - length)[:, None]
    cut = np.where(at >= 0, np.take_along_axis(tokens, np.maximum(at, 0), 1), PAD).astype(np.int64)
    data = karel.problems_dataset(problems, encoding=encoding)
    last = np.cumsum(lengths) - lengths + length - 1  # of each prefix, among all tokens
    now = np.concatenate([data.label_set(name).values[last] for name in READ], axis=1).astype(np.int64)
    return Places(cut, length, now, karel.behaviours(problems.programs))


def turned(now: np.ndarray, turn: int) -> np.ndarray:
    """The classes `[place, target]` of `READ` after so many quarter turns to the right on the spot."""
    so_far, to_go, ahead, right = now.T
    back, left = 2 * FAR - ahead, 2 * FAR - right
    around = [ahead, right, back, left]  # what lies in each direction; what was to the right is now ahead
    sides = [around[(side + turn) % 4] for side in (0, 1)]
    return np.stack([(so_far + turn) % len(TURNS), (to_go - turn) % len(TURNS), *sides], axis=1)


@dataclass(frozen=True)
class Ways:
    """Probes of targets of `READ` at one site.

    Attributes:
        coef: `[class, d]` for each target; a margin is a difference of two rows with the hidden state, plus that of the intercepts.
        intercept: `[class]` for each target.
        columns: Of each target, in the classes of places.
        moved: `[class, d]` for each target: vectors to move along the differences of, in place of the probes' own.
        read: Accuracy of the probes on programs held out, mean over the label sets.
    """

    coef: tuple[Tensor, ...]
    intercept: tuple[Tensor, ...]
    columns: tuple[int, ...] = (0, 1, 2, 3)
    moved: tuple[Tensor, ...] | None = None
    read: float = float("nan")

    def push(self, h: Tensor, now: Tensor, then: Tensor, strength: float) -> Tensor:
        """Hidden states `[place, d]` moved from the classes `now` to `then`, `[place, target]`; targets that are not among `columns` are left alone."""

        def differences(of_class: tuple[Tensor, ...]) -> Tensor:
            pairs = zip(of_class, self.columns, strict=True)
            return torch.stack([each[then[:, k]] - each[now[:, k]] for each, k in pairs], 1)

        along = differences(self.coef)  # [place, target, d]
        margin = torch.einsum("ptd,pd->pt", along, h) + differences(self.intercept)
        wanted = 2 * strength * (-margin).clamp(min=0)  # a probe that reads the new class already asks for nothing
        gram = along @ along.transpose(1, 2)
        ridge = 1e-4 * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-8)  # 0 where the turn changes no class
        gram = gram + ridge[:, None, None] * torch.eye(len(self.coef))
        weights = torch.linalg.solve(gram, wanted[..., None])[..., 0]
        return h + torch.einsum("pt,ptd->pd", weights, along if self.moved is None else differences(self.moved))


def ways_of(found: pk.SweepResult) -> dict[str, Ways]:
    """By site but the last, where a push would say the next word itself, a sweep's probes for each target of `READ`."""
    ways = {}
    for site in found.sites[:-1]:
        stacks = [found.probes[name][site] for name in READ]
        coef, intercept = (
            tuple(each for stack in stacks for each in getattr(stack, part)) for part in ("coef", "intercept")
        )
        read = float(np.mean([accuracy(found, name, site)[0] for name in READ]))
        ways[site] = Ways(coef, intercept, read=read)
    return ways


def only(ways: Ways, *columns: int) -> Ways:
    """Some of the targets; the others are not pushed."""
    coef, intercept = (tuple(of[k] for k in columns) for of in (ways.coef, ways.intercept))
    return Ways(coef, intercept, columns, read=ways.read)


def random_ways(ways: Ways, activations: np.ndarray, seed: int) -> Ways:
    """In place of the probes' vectors of every class others in the span of as many random ones with the activations' spectrum, as long and at the same
    angles to each other."""
    own = torch.cat(ways.coef).double()
    drawn = torch.from_numpy(random_directions(activations, seed, count=len(own)))
    mixed = _root(own @ own.T) @ _root(drawn @ drawn.T, inverse=True) @ drawn
    sizes = [len(each) for each in ways.coef]
    return Ways(ways.coef, ways.intercept, ways.columns, tuple(mixed.to(ways.coef[0].dtype).split(sizes)), ways.read)


def _root(gram: Tensor, inverse: bool = False) -> Tensor:
    """The symmetric square root of a Gram matrix, or the pseudo-inverse of it."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-10 * values.max()
    root = torch.where(kept, values, 0).sqrt()
    return vectors @ torch.diag(torch.where(kept, 1 / root, 0) if inverse else root) @ vectors.T


def pushed(ways: Ways, model: pk.Model, site: str, places: Places, strength: float, turn: int) -> ActivationEdit:
    """The edit of a batch of places, at the last position: quarter turns to the right."""
    now, then = torch.from_numpy(places.now), torch.from_numpy(turned(places.now, turn))

    def change(h: Tensor) -> Tensor:
        changed = h.clone()
        changed[:, -1] = ways.push(h[:, -1], now, then, strength)
        return changed

    return ActivationEdit(f"turn the robot (x{strength:g})", model, {site: change})


TURNS_PUSHED = (1, 3)
"""To the right and to the left, in quarter turns to the right."""
Setting = tuple[str, float, int]
"""Site, strength, and which random vectors (from 0; -1: the probes' own)."""


def odds(model: pk.Model, places: Places, settings: Mapping[Setting, Ways]) -> dict[Setting, np.ndarray]:
    """Log odds at the next position after each push.

    The tokens before the last are run once; a push changes nothing of them.

    Returns:
        `[place, turn, 2]`: after a turn to the right and one to the left, of `move` against all else, and of `turn_left` against `turn_right`.
    """
    found: dict[Setting, list[np.ndarray]] = {setting: [] for setting in settings}
    order = np.argsort(places.length, kind="stable")
    warnings.filterwarnings(
        "ignore", message="at .* the edit adds a vector", category=UserWarning
    )  # loud ones are tried, too
    for start in range(0, len(order), BATCH):
        some = places.take(order[start : start + BATCH])
        longest = int(some.length.max())
        tokens = torch.from_numpy(some.tokens[:, -longest:])
        there = torch.arange(longest) >= longest - torch.from_numpy(some.length)[:, None]
        position = (there.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            out = model.hf(
                input_ids=tokens[:, :-1], attention_mask=there[:, :-1].long(), position_ids=position[:, :-1], use_cache=True
            )  # fmt: skip
            # transformers renamed the cache: it goes back in by the name it came out with
            name = next(n for n in ("cache", "past_key_values") if n in list(out.keys()))
            before = {name: out[name]}
            for setting, kept in found.items():
                after = []
                for turn in TURNS_PUSHED:
                    with pushed(settings[setting], model, setting[0], some, setting[1], turn).applied(model):
                        after.append(_last_odds(model, tokens, there, position, before))
                kept.append(np.stack(after, axis=1))
    back = np.argsort(order)
    return {setting: np.concatenate(parts)[back] for setting, parts in found.items()}


def _last_odds(model: pk.Model, tokens: Tensor, there: Tensor, position: Tensor, before: dict[str, Any]) -> np.ndarray:
    """`log_odds` after the last token, given the cache of those before it, which is left as it was."""
    out = model.hf(
        input_ids=tokens[:, -1:], attention_mask=there.long(), position_ids=position[:, -1:], use_cache=True, **before
    )
    for cache in before.values():
        cache.crop(-1)
    return log_odds(out.logits[:, -1].double())


def log_odds(logits: Tensor) -> np.ndarray:
    """`[place, 2]` of `[place, token]`: `move` among all tokens, `turn_left` over `turn_right`."""
    move = FIRST_WORD + MOVE
    others = logits.clone()
    others[:, move] = -torch.inf
    turns = logits[:, FIRST_WORD + TURN_LEFT] - logits[:, FIRST_WORD + TURN_RIGHT]
    return torch.stack([logits[:, move] - others.logsumexp(1), turns], 1).numpy()
