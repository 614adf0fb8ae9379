"""What watching costs: generation with and without it, timed in turn."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probekit.models import Model

if TYPE_CHECKING:
    from probekit.monitoring.monitor import Monitor

_PROMPT = 8


@dataclass(frozen=True)
class Cost:
    """Time per step of `generate` (one token of each sequence).

    Attributes:
        plain, watched: Seconds a step without and with the monitor, median over rounds.
        added: Seconds a step that watching adds: median over rounds of the paired differences.
        low, high: The smallest and the largest of those differences.
        new_tokens, batch, rounds: What was run.
        device: Where.
    """

    plain: float
    watched: float
    added: float
    low: float
    high: float
    new_tokens: int
    batch: int
    rounds: int
    device: str

    @property
    def share(self) -> float:
        """What is added, as a share of the plain time."""
        return self.added / self.plain

    def __str__(self) -> str:
        return (
            f"{1e3 * self.plain:.2f} ms a token plain, {1e3 * self.watched:.2f} ms watched: {1e3 * self.added:+.3f} ms "
            f"({100 * self.share:+.1f} %; rounds {1e3 * self.low:+.3f} to {1e3 * self.high:+.3f}), {self.rounds} rounds of "
            f"{self.new_tokens} tokens, batch {self.batch}, {self.device}"
        )


def measure_cost(monitor: Monitor, model: Model, new_tokens: int = 32, batch: int = 1, rounds: int = 5) -> Cost:
    """See `Monitor.cost`.

    Plain and watched runs take turns, the order changing from round to round, after one of each that is not counted. The threshold is
    out of reach meanwhile, so that both generate the same tokens.
    """
    if min(new_tokens, batch, rounds) < 1:
        raise ValueError("new_tokens, batch and rounds are 1 or more")
    room = model.context or new_tokens + _PROMPT
    length = max(1, min(_PROMPT, room - new_tokens))
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, model.vocab, (batch, length))).to(model.device)
    new_tokens = min(new_tokens, room - length)
    asked: dict[str, Any] = {
        "attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens,
        "pad_token_id": 0,
    }  # fmt: skip
    quiet = replace(monitor, running_threshold=float("inf"))

    def run(watched: bool) -> float:
        began = time.perf_counter()
        if watched:
            with quiet.watch(model):
                began = time.perf_counter()
                model.hf.generate(ids, **asked)
        else:
            model.hf.generate(ids, **asked)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / new_tokens

    times = np.zeros((rounds + 1, 2))
    for number in range(rounds + 1):
        for watched in (False, True) if number % 2 else (True, False):
            times[number, int(watched)] = run(watched)
    times = times[1:]
    added = times[:, 1] - times[:, 0]
    plain, with_it = np.median(times, 0)
    return Cost(
        float(plain), float(with_it), float(np.median(added)), float(added.min()), float(added.max()), new_tokens, batch, rounds,
        str(model.device),
    )  # fmt: skip
