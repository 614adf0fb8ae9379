"""One feature put to a language model: explained, then detected and fuzzed from each explanation alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saes.naming import questions
from saes.naming.endpoint import Endpoint
from saes.naming.windows import Window


@dataclass(frozen=True)
class Drawn:
    """A feature with the windows that explain it, choose among explanations, and judge them."""

    feature: int
    threshold: float
    to_explain: list[Window]
    to_choose: list[Window]
    to_judge: list[Window]


@dataclass(frozen=True)
class Explained:
    """An explanation, with `[window]` whether the model says that the feature fires, of the windows to judge by."""

    text: str
    merit: float
    said: np.ndarray
    fuzzing: float


def explained(endpoint: Endpoint, drawn: Drawn, seed: int) -> list[Explained]:
    """Explanations of a feature with how each did, in the order given; none where the answer cannot be read.

    Raises:
        NoAnswer: to any of the questions.
    """
    answer = endpoint.ask(questions.EXPLAIN, questions.to_explain(drawn.to_explain, drawn.threshold))
    found = []
    for text in questions.explanations_in(answer):
        merit = _accuracy(_detected(endpoint, text, drawn.to_choose), drawn.to_choose)
        said = _detected(endpoint, text, drawn.to_judge).astype(bool)
        found.append(Explained(text, merit, said, _fuzzing(endpoint, text, drawn, seed)))
    return found


def _detected(endpoint: Endpoint, text: str, windows: Sequence[Window], unread: float | None = None) -> np.ndarray:
    """`[window]` 0 or 1: whether the feature fires, as the model says that reads the explanation and the bare texts.

    `unread` stands where the answer cannot be read; left out, the opposite of what is true.
    """
    shown = [questions.marked(window.tokens) for window in windows]
    wrong = ~np.array([window.fires for window in windows])
    return _chosen(endpoint, questions.DETECT, text, shown, wrong if unread is None else np.full(len(shown), unread))


def _fuzzing(endpoint: Endpoint, text: str, drawn: Drawn, seed: int) -> float:
    """Balanced accuracy of telling right marks from wrong ones, half of the firing windows each; NaN where none can be made."""
    rng = np.random.default_rng([seed, 0xF022, drawn.feature])
    shown, right = [], []
    for i, window in enumerate(window for window in drawn.to_judge if window.fires):
        strong = window.activations >= drawn.threshold
        wrong = questions.wrong_marks(window, strong, rng) if i % 2 else None
        shown.append(questions.marked(window.tokens, strong if wrong is None else wrong))
        right.append(wrong is None)
    order, truth = rng.permutation(len(shown)), np.array(right)
    said = _chosen(endpoint, questions.FUZZ, text, [shown[i] for i in order], ~truth[order])
    return _balanced(said, truth[order])


def _chosen(endpoint: Endpoint, system: str, text: str, shown: Sequence[str], unread: np.ndarray) -> np.ndarray:
    """`[text]` 0 or 1: what the model says of each; where that cannot be read, what `unread` has."""
    said = unread.astype(float)
    for start in range(0, len(shown), questions.BATCH):
        part = shown[start : start + questions.BATCH]
        answer = endpoint.ask(system, questions.to_choose(text, part))
        for i, one in enumerate(questions.answers_in(answer, len(part)), start):
            if one is not None:
                said[i] = one
    return said


def control(endpoint: Endpoint, made: Sequence[Drawn], at: int, best: Mapping[int, str]) -> float:
    """Balanced accuracy, on the windows that judge a feature, of the best explanation of the next one asked about.

    An answer that cannot be read counts as half right: counted as wrong it would make the control look weak.
    """
    other = best.get(made[(at + 1) % len(made)].feature)
    if other is None or made[at].feature not in best or len(made) == 1:
        return math.nan
    return _accuracy(_detected(endpoint, other, made[at].to_judge, unread=0.5), made[at].to_judge)


def _accuracy(said: np.ndarray, windows: Sequence[Window]) -> float:
    return _balanced(said, np.array([window.fires for window in windows]))


def _balanced(said: np.ndarray, truth: np.ndarray) -> float:
    if truth.all() or not truth.any():
        return math.nan
    return float((said[truth].mean() + 1 - said[~truth].mean()) / 2)
