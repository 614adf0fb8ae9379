"""Does a model write programs that do what the examples say? Greedy generation, and the share of programs that are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from probekit.testbeds.karel.interpreter import ENDED, run
from probekit.testbeds.karel.language import ProgramError, compile_programs
from probekit.testbeds.karel.problems import Problems
from probekit.testbeds.karel.programs import behaviours
from probekit.testbeds.karel.tokens import END, FIRST_WORD, PAD, PROGRAM, VOCABULARY, Encoding, encode, is_word
from probekit.testbeds.karel.world import Worlds

MOST_WORDS = 24
"""Words after which generation is cut off; such a program is wrong."""


@dataclass(frozen=True)
class Synthesis:
    """Programs that a model wrote for some specifications, and whether they are right.

    A program is *right* when it runs without error in all shown examples and ends in their outputs; it *generalises* when the
    same holds for the unseen examples, too. Programs that do not parse or do not end are wrong.

    Attributes:
        programs: `[problem, word]` int8 words, -1 past the end (of programs that do not parse, -1 throughout).
        right, generalises: `[problem]` bool; the latter all False where no unseen examples were given.
        parsed: `[problem]` bool.
        length, reference_length: `[problem]` number of words.
        rate, low, high: Share that is right, with a 95 % interval from a bootstrap over behaviours: problems that ask
            for the same are right or wrong together.
        unseen, unseen_low, unseen_high: The same for those that generalise; NaN where no unseen examples were given.
    """

    programs: np.ndarray
    right: np.ndarray
    generalises: np.ndarray
    parsed: np.ndarray
    length: np.ndarray
    reference_length: np.ndarray
    rate: float
    low: float
    high: float
    unseen: float
    unseen_low: float
    unseen_high: float

    @property
    def shorter(self) -> float:
        """Share of the right programs that are shorter than the reference; NaN where none is right."""
        return float((self.length < self.reference_length)[self.right].mean()) if self.right.any() else float("nan")

    def figures(self) -> dict[str, float]:
        """The shares, rounded, for logs and cards; those that are not defined are left out."""
        names = ("rate", "low", "high", "unseen", "unseen_low", "unseen_high", "shorter")
        values = {name: round(float(getattr(self, name)), 4) for name in names}
        return {name: value for name, value in values.items() if value == value}

    def __str__(self) -> str:
        return (
            f"{100 * self.rate:.1f} % right [{100 * self.low:.1f}, {100 * self.high:.1f}], {100 * self.unseen:.1f} % on unseen "
            f"examples, too [{100 * self.unseen_low:.1f}, {100 * self.unseen_high:.1f}], {len(self.right):,} specifications"
        )


def generate(model: Any, problems: Problems, *, encoding: Encoding = "facts", batch: int = 128) -> np.ndarray:
    """The program that a model writes for each specification, taking the likeliest token each time.

    Args:
        model: A Hugging Face causal language model over the tokens of this testbed.
        problems: Their specifications are read; their programs are not.
        encoding: What the model was trained on.
        batch: Specifications run at once.

    Returns:
        `[problem, token]` int32 tokens after `<program>`, up to `<end>` (included) or the limit of 24; then `PAD`.

    Raises:
        ValueError: the model's vocabulary is not that of the encoding.
    """
    import torch

    size = int(model.config.vocab_size)
    if size != VOCABULARY[encoding]:
        raise ValueError(
            f"the model has {size} tokens, Karel in the encoding {encoding!r} {VOCABULARY[encoding]}: it was made for something else"
        )
    tokens, _ = encode(problems, encoding)
    prompts = (tokens == PROGRAM).argmax(1) + 1
    order = np.argsort(prompts, kind="stable")
    written = np.full((len(problems), MOST_WORDS), PAD, np.int32)
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        longest = int(prompts[rows].max())
        places = np.arange(longest) - (longest - prompts[rows])[:, None]  # padded on the left
        ids = np.where(places >= 0, np.take_along_axis(tokens[rows], np.maximum(places, 0), 1), PAD)
        with torch.no_grad():
            out = model.generate(
                input_ids=torch.from_numpy(ids).long().to(model.device),
                attention_mask=torch.from_numpy(places >= 0).long().to(model.device),
                max_new_tokens=MOST_WORDS, do_sample=False, use_cache=True, eos_token_id=END, pad_token_id=PAD,
            )  # fmt: skip
        new = out[:, longest:].cpu().numpy()
        written[rows, : new.shape[1]] = new
    return written


def judge(tokens: np.ndarray, problems: Problems) -> Synthesis:
    """Whether generated programs are right.

    Args:
        tokens: `[problem, token]` as `generate` gives them.
        problems: What was asked.
    """
    n = len(problems)
    ended = (tokens == END).any(1)
    before_end = np.arange(tokens.shape[1]) < np.where(ended, (tokens == END).argmax(1), tokens.shape[1])[:, None]
    parsed = ended & (is_word(tokens) | ~before_end).all(1)
    words = np.where(before_end & parsed[:, None], tokens - FIRST_WORD, -1).astype(np.int8)
    for row in np.flatnonzero(parsed):
        try:
            compile_programs(words[row : row + 1, : before_end[row].sum()])
        except ProgramError:
            parsed[row] = False
    parsed &= (words >= 0).any(1)
    words[~parsed] = -1
    good = np.zeros((n, problems.examples), bool)
    if parsed.any():
        chosen = problems.rows(np.flatnonzero(parsed))
        runs = run(words[parsed], chosen.inputs)
        good[parsed] = ((runs.outcome == ENDED) & same_state(runs.outputs, chosen.outputs)).reshape(
            -1, problems.examples
        )
    right = np.asarray(good[:, : problems.shown].all(1))
    everywhere = np.asarray(good.all(1))
    with_unseen = problems.examples > problems.shown
    nan = float("nan")
    groups = np.unique(behaviours(problems.programs), return_inverse=True)[1]
    low, high = _interval(right, groups)
    unseen_low, unseen_high = _interval(everywhere, groups) if with_unseen else (nan, nan)
    return Synthesis(
        programs=words,
        right=right,
        generalises=everywhere & with_unseen,
        parsed=parsed,
        length=(words >= 0).sum(1),
        reference_length=(problems.programs >= 0).sum(1),
        rate=float(right.mean()),
        low=low,
        high=high,
        unseen=float(everywhere.mean()) if with_unseen else nan,
        unseen_low=unseen_low,
        unseen_high=unseen_high,
    )


def _interval(hit: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of a share, from a bootstrap over groups."""
    hits, sizes = np.bincount(groups, hit), np.bincount(groups)
    draws = np.random.default_rng(0).integers(0, len(sizes), (1000, len(sizes)))
    low, high = np.quantile(hits[draws].sum(1) / sizes[draws].sum(1), (0.025, 0.975))
    return float(low), float(high)


def synthesise(model: Any, problems: Problems, *, encoding: Encoding = "facts", batch: int = 128) -> Synthesis:
    """`generate`, then `judge`: the measure of the paper, and the same on unseen examples."""
    return judge(generate(model, problems, encoding=encoding, batch=batch), problems)


def same_state(one: Worlds, other: Worlds) -> np.ndarray:
    """`[world]` bool: whether robot and markers are where they are in the other world."""
    same: np.ndarray = (one.cell == other.cell) & (one.facing == other.facing) & (one.markers == other.markers).all(1)
    return same
