"""Labels that a probe should *not* do well on, and the types they are given to.

* Shuffled labels: what a probe of this size scores when there is nothing to find.
* Control task (Hewitt & Liang 2019, "Designing and interpreting probes with control tasks", section 2): every type gets
  a random label, so that a probe can only score by telling types apart and learning them by heart. Selectivity is
  accuracy minus control accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COVERAGE = 0.9  # share of the test items whose type must occur in training
OWN = 0.1  # share of the rows that may meet labels of their own cluster when labels are shuffled
FEWEST_TYPES = 8  # with fewer types a control task is no task


def shuffle_labels(values: np.ndarray, sequence: np.ndarray, seed: int) -> np.ndarray:
    """`values` `[n, target]` of training rows, dealt out again between whole sequences.

    A sequence's labels stay together and in order; which sequence's activations they meet is random. All targets of a
    row move together. What position alone tells about a label survives (in board games a good deal); what a sequence
    tells does not. Sequences move, not groups of them: in groups of one true and one false sentence, labels that kept
    the order within a group would hardly move at all.

    Rows stand sequence by sequence in random order, and their labels move on by one sequence, or by several where a
    small one would leave more than `OWN` of the rows with labels of their own. Where one sequence holds more than half
    of the rows, rows are dealt out one by one.
    """
    rng = np.random.default_rng([seed, 0x5481])
    names, index, sizes = np.unique(sequence, return_inverse=True, return_counts=True)
    place = rng.permutation(len(names))
    if 2 * sizes.max() > len(values):
        return values[rng.permutation(len(values))]
    to = np.argsort(place[index], kind="stable")
    for shift in np.cumsum(sizes[np.argsort(place)][::-1]):
        source = np.roll(to, shift)
        if (index[to] == index[source]).mean() <= OWN:
            break
    out = np.empty_like(values)
    out[to] = values[source]
    return out


def control_labels(values: np.ndarray, types: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """A random label for each type and target, `[n, target]`.

    Labels are drawn from the target's own distribution on the training rows. Undefined stays undefined, and so does
    every row whose type does not occur in training: nobody could know its label.

    Args:
        values: `[n, target]` true labels (-1 or NaN: not defined).
        types: `[n]` integer type of each row.
        train: Indices of the training rows.
    """
    rng = np.random.default_rng([seed, 0xC0])
    names, index = np.unique(types, return_inverse=True)
    missing = np.isnan(values) if values.dtype.kind == "f" else values < 0
    ordered = np.sort(np.where(missing, np.inf, values)[train].astype(np.float64), 0)
    known = (~missing[train]).sum(0)
    draw = (rng.random((len(names), values.shape[1])) * known).astype(np.int64)
    label = np.take_along_axis(ordered, np.minimum(draw, np.maximum(known - 1, 0)), 0)[index]
    unseen = ~np.isin(index, index[train])
    undefined: float = np.nan if values.dtype.kind == "f" else -1
    return np.where(missing | unseen[:, None] | ~np.isfinite(label), undefined, label).astype(values.dtype)


@dataclass(frozen=True)
class Types:
    """The type of each row, or why there is none.

    Attributes:
        of_row: `[n]` integers, None where no control task is possible.
        what: What a type is ("the token"), or the reason.
    """

    of_row: np.ndarray | None
    what: str


def token_types(token: np.ndarray | None, train: np.ndarray, test: np.ndarray) -> Types:
    """A row's type is its token, as in Hewitt & Liang."""
    if token is None:
        return Types(None, "not available: the activations come without token ids")
    return _checked(np.asarray(token), "the row's token", train, test)


def sequence_types(sequences: Sequence[str | np.ndarray], train: np.ndarray, test: np.ndarray) -> Types:
    """A sequence's type is the word (or token) at one place in it.

    Of the first and last eight places the one with the most types is taken, among those where at least 90 % of the test
    sequences have a word that occurs there in training: such a task can be learned by heart and then be scored.

    Args:
        sequences: Texts, or token arrays, one a row.
        train: Rows of the training part.
        test: Rows of the test part.
    """
    words = [re.findall(r"\w+|[^\w\s]", s.lower()) if isinstance(s, str) else s.tolist() for s in sequences]
    found: list[tuple[int, int, np.ndarray]] = []
    for place in (*range(8), *range(-1, -9, -1)):
        at = [w[place] if -len(w) <= place < len(w) else None for w in words]
        index = np.unique([str(a) for a in at], return_inverse=True)[1]
        number = len(np.unique(index[train]))
        if number >= FEWEST_TYPES and np.isin(index[test], index[train]).mean() >= COVERAGE:
            found.append((number, place, index))
    if not found:
        return Types(
            None,
            f"not available: at none of the first and last 8 places do {FEWEST_TYPES} or more words cover "
            f"{COVERAGE:.0%} of the test sequences",
        )
    number, place, index = max(found, key=lambda f: f[0])
    unit = "word" if isinstance(sequences[0], str) else "token"
    where = f"{unit} {place + 1}" if place >= 0 else f"{unit} {-place} from the end"
    return Types(index, f"{where} of the sequence ({number} of them in training)")


def _checked(types: np.ndarray, what: str, train: np.ndarray, test: np.ndarray) -> Types:
    number = len(np.unique(types[train]))
    covered = float(np.isin(types[test], types[train]).mean()) if len(test) else 0.0
    if number < FEWEST_TYPES:
        return Types(None, f"not available: only {number} types ({what}) in training")
    if covered < COVERAGE:
        return Types(None, f"not available: only {covered:.0%} of the test items have a type ({what}) seen in training")
    return Types(types, f"{what} ({number} of them in training)")


def majority_log_proba(train_values: np.ndarray, classes: int) -> np.ndarray:
    """`[target, class]` log of the class frequencies in training: the best constant guess.

    Half a count is added to each class, so that a class not met in training is unlikely and not impossible.
    """
    counts = np.stack([(train_values == c).sum(0) for c in range(classes)], -1) + 0.5
    log_share: np.ndarray = np.log(counts / counts.sum(-1, keepdims=True))
    return log_share
