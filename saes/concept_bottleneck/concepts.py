"""Which concepts a bottleneck is built from: few that tell the classes and do not repeat each other, chosen greedily.

The utility of a set of concepts has a modular part (how well each tells the classes) and a facility-location part (how well
the set stands for the concepts that tell the classes). It is monotone and submodular, so that the greedy choice is worth
at least 1 - 1/e = 63 % of the best choice of as many (Nemhauser, Wolsey & Fisher 1978).

Source: LaBo (Yang et al. 2023, arXiv 2211.11158), section 3.2, has both parts, measured by text-image similarity. Here
they are shares of variance on training items, so that no second model is asked.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Utility:
    """`(1 - diversity) sum_{j in S} p_j + diversity sum_i p_i max_{j in S} similarity_ij`, with `p = scores / sum(scores)`.

    Both parts run from 0 (nothing chosen) to 1 (everything chosen, where each concept stands for itself fully).

    Attributes:
        scores: `[concept]` how well each tells the classes, >= 0.
        similarity: `[concept, concept]` how well the second stands for the first, from 0 to 1.
        diversity: Weight of the second part, from 0 to 1.

    Raises:
        ValueError: shapes that do not fit, numbers below zero or not finite, diversity outside 0 to 1.
    """

    scores: np.ndarray
    similarity: np.ndarray
    diversity: float = 0.5

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, np.float64)
        similarity = np.asarray(self.similarity, np.float64)
        if scores.ndim != 1 or similarity.shape != (len(scores), len(scores)):
            raise ValueError(
                f"scores must be [concept] and similarity [concept, concept]; got {scores.shape} and {similarity.shape}"
            )
        if not (scores >= 0).all() or not (similarity >= 0).all() or not np.isfinite(scores.sum() + similarity.sum()):
            raise ValueError(
                "scores and similarities must be finite and not below zero: the utility would not be monotone"
            )
        if not 0 <= self.diversity <= 1:
            raise ValueError(f"diversity must lie between 0 and 1, got {self.diversity}")
        total = scores.sum()
        object.__setattr__(self, "scores", scores / total if total > 0 else scores)
        object.__setattr__(self, "similarity", similarity)

    def __len__(self) -> int:
        return len(self.scores)

    def covered(self, chosen: Iterable[int]) -> np.ndarray:
        """`[concept]` how well the best of `chosen` stands for each; 0 where none is chosen."""
        best: np.ndarray = self.similarity[:, list(chosen)].max(1, initial=0.0)
        return best

    def value(self, chosen: Iterable[int]) -> float:
        """Utility of a set of concepts."""
        chosen = sorted(set(chosen))
        modular, coverage = self.scores[chosen].sum(), self.scores @ self.covered(chosen)
        return float((1 - self.diversity) * modular + self.diversity * coverage)

    def gain(self, concept: int, covered: np.ndarray) -> float:
        """What adding a concept is worth to a set that covers so much (`covered` of it)."""
        more = np.maximum(self.similarity[:, concept] - covered, 0.0)
        return float((1 - self.diversity) * self.scores[concept] + self.diversity * (self.scores @ more))


def choose_concepts(utility: Utility, count: int) -> np.ndarray:
    """The greedy choice, `[count]` int64, in the order chosen: its first k are the greedy choice of k.

    A gain can only fall as more is chosen, so that a gain worked out earlier is a bound, and only the concept that leads
    by its bound is worked out again (Minoux 1978, "Accelerated greedy algorithms for maximizing submodular set
    functions"). The choice is that of the plain greedy algorithm; of equal gains the concept that comes first is taken.

    Args:
        utility: Of sets of concepts.
        count: How many, at most as many as there are.

    Raises:
        ValueError: more asked for than there are.
    """
    if not 0 <= count <= len(utility):
        raise ValueError(f"{count} concepts cannot be chosen from {len(utility)}")
    covered = np.zeros(len(utility))
    bounds = [(-utility.gain(concept, covered), concept) for concept in range(len(utility))]
    heapq.heapify(bounds)
    chosen: list[int] = []
    known_at = np.zeros(len(utility), np.int64)  # how many were chosen when the bound was worked out
    while len(chosen) < count:
        _, concept = bounds[0]
        if known_at[concept] == len(chosen):
            heapq.heappop(bounds)
            chosen.append(concept)
            covered = np.maximum(covered, utility.similarity[:, concept])
        else:
            known_at[concept] = len(chosen)
            heapq.heapreplace(bounds, (-utility.gain(concept, covered), concept))
    return np.array(chosen, np.int64)


def class_separation(features: sparse.csc_array, y: np.ndarray, classes: int) -> np.ndarray:
    """`[feature]` float64: share of each feature's variance that lies between the classes, from 0 to 1 (eta squared).

    For two classes the square of the correlation with the class. 0 for a feature that never varies.

    Args:
        features: `[item, feature]`.
        y: `[item]` class indices.
        classes: Number of classes.
    """
    x = sparse.csc_array(features, dtype=np.float64)
    items = x.shape[0]
    member = sparse.csr_array((np.ones(items), (y, np.arange(items))), shape=(classes, items))
    sizes = np.bincount(y, minlength=classes)[:, None]
    sums = (member @ x).toarray()
    mean = sums.sum(0) / items
    between = (sizes * (sums / np.maximum(sizes, 1) - mean) ** 2).sum(0)
    return _share(between, _squares_about(x, mean))


def squared_correlation(features: sparse.csc_array) -> np.ndarray:
    """`[feature, feature]` float64: share of the variance of one that another tells, from 0 to 1; 0 where one is constant.

    Args:
        features: `[item, feature]`; memory is taken for the result, not for the features made dense.
    """
    x = sparse.csc_array(features, dtype=np.float64)
    mean = np.asarray(x.sum(0)).ravel() / x.shape[0]
    product = (x.T @ x).toarray() - x.shape[0] * np.outer(mean, mean)
    squares = _squares_about(x, mean)
    shared = _share(product**2, np.outer(squares, squares))
    np.fill_diagonal(shared, squares > 0)
    return shared


def _squares_about(x: sparse.csc_array, mean: np.ndarray) -> np.ndarray:
    """`[feature]` sum of squares about the mean; 0 where it is nothing but rounding."""
    raw = np.asarray(x.multiply(x).sum(0)).ravel()
    about = raw - x.shape[0] * mean**2
    known: np.ndarray = np.where(about > 1e-10 * raw, about, 0.0)
    return known


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, from 0 to 1; 0 where the whole is."""
    share: np.ndarray = np.clip(np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0), 0.0, 1.0)
    return share
