"""What a model writes: whether it is right, how long it is beside the reference, and the loss on problems that training never saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from effects import group_counts

from probekit.testbeds import karel
from probekit.testbeds.karel.language import PICK_MARKER, PUT_MARKER, TURN_LEFT, TURN_RIGHT
from probekit.testbeds.karel.tokens import Encoding
from probekit.testbeds.karel.train import losses, to_batch

LOSS_PROBLEMS = 512
BATCH = 128


def programs_of(hf: Any, problems: karel.Problems, encoding: Encoding) -> tuple[dict[str, float], pd.DataFrame]:
    """The figures of `Synthesis.figures`, and a row a specification: `right`, `length`, `reference`, `tidied`, `group`.

    `tidied` is the length of the reference without what plainly does nothing (`tidied`).
    """
    found = karel.synthesise(hf, problems, encoding=encoding)
    frame = pd.DataFrame(
        {
            "right": found.right, "length": found.length, "reference": found.reference_length,
            "tidied": [len(tidied(words[words >= 0])) for words in problems.programs],
            "group": np.unique(karel.behaviours(problems.programs), return_inverse=True)[1],
        }
    )  # fmt: skip
    return found.figures(), frame


def tidied(words: np.ndarray) -> np.ndarray:
    """A program of actions without markers put and picked up again, and with the fewest turns between other actions.

    The result does the same, step by step, wherever the program runs without error; it need not be the shortest that does.
    """
    before, words = None, [int(word) for word in words]
    while words != before:
        before, words, turns = words, [], 0
        for word in [*before, None]:
            if word in (TURN_LEFT, TURN_RIGHT):
                turns += 1 if word == TURN_RIGHT else -1
                continue
            words += [[], [TURN_RIGHT], [TURN_RIGHT] * 2, [TURN_LEFT]][turns % 4]
            turns = 0
            if word is None:
                break
            if words and {word, words[-1]} == {PUT_MARKER, PICK_MARKER}:
                words.pop()
            else:
                words.append(word)
    return np.array(words, np.int8)


def loss_of(hf: Any, encoding: Encoding, problems: int = LOSS_PROBLEMS) -> float:
    """Cross-entropy in nats of the words and ends of reference programs of the part `valid`, mean over tokens."""
    tokens, _ = karel.encode(karel.sample_problems(problems, seed=3, part="valid"), encoding)
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(tokens), BATCH):
            batch = to_batch(tokens[start : start + BATCH])
            here = int(batch.program.sum())
            total, count = total + here * float(losses(hf, batch)[0]), count + here
    return total / count


def shorter(programs: pd.DataFrame, draws: int = 1000) -> pd.DataFrame:
    """Of the right programs, the share that is shorter than the reference, and than the tidied reference.

    Returns:
        A row each: `than`, `share` with its 95 % interval over groups, mean `length` and mean length of what it is compared with (`theirs`),
        and how many are `right`.
    """
    right = programs[programs.right]
    if not len(right):
        return pd.DataFrame(columns=["than", "share", "low", "high", "length", "theirs", "right"])
    counts = group_counts(right.group.to_numpy(), draws)
    rows = []
    for than in ("reference", "tidied"):
        less = (right.length < right[than]).to_numpy(float)
        low, high = np.quantile(counts @ less / counts.sum(1), (0.025, 0.975))
        rows.append(
            {"than": than, "share": less.mean(), "low": low, "high": high, "length": right.length.mean(), "theirs": right[than].mean(),
             "right": len(right)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def lengths(programs: pd.DataFrame) -> pd.DataFrame:
    """Of the right programs: how many have each `length`, by `whose` (`written`, `reference`, `tidied`)."""
    right = programs[programs.right]
    parts = [
        right[column].value_counts().rename_axis("length").reset_index(name="programs").assign(whose=name)
        for column, name in (("length", "written"), ("reference", "reference"), ("tidied", "tidied"))
    ]
    return pd.concat(parts, ignore_index=True).sort_values(["whose", "length"]).reset_index(drop=True)
