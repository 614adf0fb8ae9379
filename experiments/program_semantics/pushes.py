"""Does the model act on the facing that probes read? Turn the robot inside the hidden state and look at the next action.

After a word of a program the robot faces somewhere in each of the five examples. The same relative turn is pushed into the hidden state
for all five at once: for each example there are probes of `facing` of its own, and the push is the shortest vector that moves every
margin "new facing over true facing" from `-m` to `(2 * strength - 1) * m`, so that strength 1 mirrors what all five probes read. One example alone would be the
wrong thing to push: programs in training never fail in *any* example, so that a wall ahead in any of the other four already forbids the move.

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
from probekit.testbeds.karel.language import MOVE, TURN_LEFT, TURN_RIGHT
from probekit.testbeds.karel.tokens import FIRST_WORD, PAD, PROGRAM, Encoding
from probekit.testbeds.karel.world import STEP
from saes.overlap import random_directions

BATCH = 200


@dataclass(frozen=True)
class Places:
    """Prefixes of programs, each with a turn to push.

    Attributes:
        tokens: `[place, position]` int64: the sequence up to the word, padded on the left with 0.
        length: `[place]` tokens of each.
        facing: `[place, example]` where the robot faces after the word, 0-3.
        turn: `[place]` quarter turns to the right, 1-3.
        wall: `[place, 2]` bool: whether a wall is ahead in any example, before and after the turn.
        group: `[place]` what the program does (`karel.behaviours`).
    """

    tokens: np.ndarray
    length: np.ndarray
    facing: np.ndarray
    turn: np.ndarray
    wall: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.length)

    def take(self, rows: np.ndarray) -> Places:
        return Places(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def places_in(problems: karel.Problems, encoding: Encoding, seed: int) -> Places:
    """One place in each program, after any word but the last, with a random turn."""
    rng = np.random.default_rng([seed, 0x9145])
    n, examples = len(problems), problems.shown
    rows = np.arange(n)
    tokens, _ = karel.encode(problems, encoding)
    begins = (tokens == PROGRAM).argmax(1)
    words = 1 + (rng.random(n) * ((problems.programs >= 0).sum(1) - 1)).astype(np.int64)
    length = begins + 1 + words
    at = np.arange(length.max()) - (length.max() - length)[:, None]
    cut = np.where(at >= 0, np.take_along_axis(tokens, np.maximum(at, 0), 1), PAD).astype(np.int64)
    turn = rng.integers(1, 4, n)
    facing, wall = np.zeros((n, examples), np.int64), np.zeros((n, 2), bool)
    for example in range(examples):
        runs = karel.run(problems.programs, problems.example(example)[0]).check()
        facing[:, example] = runs.facing[rows, words]
        for k, now in enumerate((facing[:, example], (facing[:, example] + turn) % 4)):
            wall[:, k] |= runs.worlds.walls[rows, runs.cell[rows, words] + STEP[now]]
    return Places(cut, length, facing, turn, wall, karel.behaviours(problems.programs))


@dataclass(frozen=True)
class Ways:
    """Probes of the facing in each example at one site.

    Attributes:
        coef: `[example, facing, d]`; a margin is a difference of two rows with the hidden state, plus that of the intercepts.
        intercept: `[example, facing]`.
        moved: `[example, facing, facing, d]` directions to move along in place of the probes' (new facing, true facing), for random
            ones of equal norm; None: the probes' own.
        read: Accuracy of the probes on programs held out, mean over the examples.
    """

    coef: Tensor
    intercept: Tensor
    moved: Tensor | None = None
    read: float = float("nan")

    def push(self, h: Tensor, facing: Tensor, turn: Tensor, strength: float) -> Tensor:
        """Hidden states `[place, d]` with the robot turned in every example."""
        example = torch.arange(facing.shape[1])
        new = (facing + turn[:, None]) % 4
        along = self.coef[example, new] - self.coef[example, facing]  # [place, example, d]
        margin = torch.einsum("ped,pd->pe", along, h) + self.intercept[example, new] - self.intercept[example, facing]
        wanted = 2 * strength * (-margin).clamp(min=0)  # a probe that reads the new facing already asks for nothing
        gram = along @ along.transpose(1, 2)
        gram = gram + 1e-4 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(len(example))
        weights = torch.linalg.solve(gram, wanted[..., None])[..., 0]
        step = torch.einsum("pe,ped->pd", weights, along)
        if self.moved is not None:
            stray = torch.einsum("pe,ped->pd", weights * along.norm(dim=2), self.moved[example, new, facing])
            step = stray * (step.norm(dim=1) / stray.norm(dim=1).clamp(min=1e-12))[:, None]
        return h + step


def fit_ways(store: pk.ActivationStore, problems: karel.Problems, encoding: Encoding) -> dict[str, Ways]:
    """By site, a probe of `facing` for each example that the specification shows."""
    told = [karel.problems_dataset(problems, encoding=encoding, example=k) for k in range(problems.shown)]
    found = [pk.sweep(store, data, labels=["facing"], controls=False, n_boot=100, progress=False) for data in told]
    ways = {}
    for site in found[0].sites:
        stacks = [one.probes["facing"][site] for one in found]
        coef, intercept = (torch.stack([getattr(stack, part)[0] for stack in stacks]) for part in ("coef", "intercept"))
        read = float(np.mean([accuracy(one, "facing", site)[0] for one in found]))
        ways[site] = Ways(coef, intercept, read=read)
    return ways


def random_ways(ways: Ways, activations: np.ndarray, seed: int) -> Ways:
    """Random unit vectors with the activations' own spectrum in place of the probes' directions."""
    examples, facings, width = ways.coef.shape
    drawn = random_directions(activations, seed, count=examples * facings * facings)
    return Ways(
        ways.coef, ways.intercept, torch.from_numpy(drawn).float().view(examples, facings, facings, width), ways.read
    )


def pushed(ways: Ways, model: pk.Model, site: str, places: Places, strength: float) -> ActivationEdit:
    """The edit of a batch of places, at the last position."""
    facing, turn = torch.from_numpy(places.facing), torch.from_numpy(places.turn)

    def change(h: Tensor) -> Tensor:
        changed = h.clone()
        changed[:, -1] = ways.push(h[:, -1], facing, turn, strength)
        return changed

    return ActivationEdit(f"turn the robot (x{strength:g})", model, {site: change})


Setting = tuple[str, float, int]
"""Site, strength, and which random directions (from 0; -1: the probes' own)."""


def odds(model: pk.Model, places: Places, settings: Mapping[Setting, Ways]) -> dict[Setting | None, np.ndarray]:
    """Log odds at the next position, without a push (None) and under each setting.

    The tokens before the last are run once; a push changes nothing of them.

    Returns:
        `[place, 2]`: of `move` against all else, and of `turn_left` against `turn_right`.
    """
    found: dict[Setting | None, list[np.ndarray]] = {None: [], **{setting: [] for setting in settings}}
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
                if setting is None:
                    kept.append(_last_odds(model, tokens, there, position, before))
                else:
                    with pushed(settings[setting], model, setting[0], some, setting[1]).applied(model):
                        kept.append(_last_odds(model, tokens, there, position, before))
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
