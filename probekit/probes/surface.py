"""What can be told from the input alone, without the model: the baseline a probe has to beat.

Texts are read by word 1-2-grams and character 2-5-grams (TF-IDF) and a linear classifier or regressor; tokens by their
identity and position, with the same probe that reads the activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

C_GRID = (0.3, 3.0, 30.0)  # inverse penalties of the logistic regression on TF-IDF rows, which have unit length
ALPHA_GRID = (0.1, 1.0, 10.0)  # penalties of the ridge regression
LEAST = -36.0  # least log-probability that is reported
COMMON_TOKENS = 500
POSITIONS = 64
MAX_FEATURES = 30_000  # of each of the two kinds of n-grams


def token_features(token: np.ndarray, position: np.ndarray, train: np.ndarray) -> np.ndarray:
    """`[n, feature]` float32: which token a row is at (the commonest in training, one column each) and where.

    Args:
        token: `[n]` token ids.
        position: `[n]` positions in the sequence; one column each for the first 64, and the logarithm.
        train: Indices of the training rows.
    """
    names, counts = np.unique(token[train], return_counts=True)
    common = np.sort(names[np.argsort(-counts, kind="stable")[:COMMON_TOKENS]])
    place = np.minimum(np.searchsorted(common, token), len(common) - 1)
    features = np.zeros((len(token), len(common) + POSITIONS + 1), dtype=np.float32)
    known = common[place] == token
    features[np.flatnonzero(known), place[known]] = 1
    early = position < POSITIONS
    features[np.flatnonzero(early), len(common) + position[early]] = 1
    features[:, -1] = np.log1p(position)
    return features[:, features[train].any(0)]


def as_texts(sequences: Sequence[str | np.ndarray]) -> list[str]:
    """Token arrays as texts of token numbers, so that n-grams can be read from them; texts unchanged."""
    return [s if isinstance(s, str) else " ".join(map(str, s.tolist())) for s in sequences]


class TextBaseline:
    """TF-IDF n-grams and a linear model from scikit-learn, its penalty chosen on validation for each target.

    Args:
        train: Training texts; the vocabulary and its weights come from these only.
        characters: Also read character n-grams (not for token numbers).
    """

    def __init__(self, train: Sequence[str], characters: bool = True) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        rare = 2 if len(train) >= 1000 else 1
        options: dict[str, Any] = {
            "sublinear_tf": True,
            "min_df": rare,
            "max_features": MAX_FEATURES,
            "dtype": np.float32,
        }
        self._readers = [TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b|[^\w\s]", **options)]
        if characters:
            self._readers.append(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **options))
        for reader in self._readers:
            reader.fit(train)
        self._train = self.features(train)

    def features(self, texts: Sequence[str]) -> Any:
        """Sparse `[text, feature]`."""
        from scipy.sparse import hstack

        return hstack([reader.transform(texts) for reader in self._readers], format="csr")

    def fitted(self, y: np.ndarray, strength: float, classes: int | None) -> Callable[[Sequence[str]], np.ndarray]:
        """A model of one target: a function from texts to class log-probabilities `[text, class]`, or to values `[text]`.

        Args:
            y: `[train text]` class indices (-1 where not defined), or values (NaN).
            strength: The inverse penalty C of classes, the penalty alpha of values.
            classes: Number of classes; None for values.
        """
        said = self._model(y, strength, classes)
        return lambda texts: said(self.features(texts))

    def _model(self, y: np.ndarray, strength: float, classes: int | None) -> Callable[[Any], np.ndarray]:
        """As `fitted`, from features."""
        from sklearn.linear_model import LogisticRegression, Ridge

        if classes is None:
            known = ~np.isnan(y)
            ridge = Ridge(alpha=strength).fit(self._train[known], y[known].astype(np.float64))
            predict: Callable[[Any], np.ndarray] = ridge.predict
            return predict
        model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(self._train[y >= 0], y[y >= 0])

        def log_proba(rows: Any) -> np.ndarray:
            spread = np.full((rows.shape[0], classes), -np.inf)
            spread[:, model.classes_] = model.predict_log_proba(rows)
            return np.maximum(spread, LEAST)

        return log_proba

    def log_proba(
        self,
        y_train: np.ndarray,
        valid: Sequence[str],
        y_valid: np.ndarray,
        others: Mapping[str, Sequence[str]],
        classes: int,
    ) -> dict[str, np.ndarray]:
        """Class log-probabilities `[text, target, class]` for `"valid"` and each of `others`.

        Args:
            y_train: `[train text, target]` class indices, -1 where not defined.
            y_valid: `[valid text, target]`.
            classes: Number of classes.
        """
        rows = {"valid": self.features(valid), **{name: self.features(texts) for name, texts in others.items()}}
        out = {name: np.full((x.shape[0], y_train.shape[1], classes), LEAST) for name, x in rows.items()}
        for target in range(y_train.shape[1]):  # scikit-learn fits one target at a time
            y, check = y_train[:, target], y_valid[:, target]
            best = -np.inf
            for strength in C_GRID:
                said = self._model(y, strength, classes)
                kept = said(rows["valid"])[check >= 0, check[check >= 0]]
                score = float(kept.mean()) if len(kept) else 0.0
                if score > best:
                    best = score
                    for name, x in rows.items():
                        out[name][:, target] = said(x)
        return out

    def estimate(
        self, y_train: np.ndarray, valid: Sequence[str], y_valid: np.ndarray, others: Mapping[str, Sequence[str]]
    ) -> dict[str, np.ndarray]:
        """Estimated values `[text, target]` of continuous labels (NaN: not defined), as `log_proba`."""
        rows = {"valid": self.features(valid), **{name: self.features(texts) for name, texts in others.items()}}
        out = {name: np.zeros((x.shape[0], y_train.shape[1])) for name, x in rows.items()}
        for target in range(y_train.shape[1]):
            check = y_valid[:, target]
            best = np.inf
            for strength in ALPHA_GRID:
                said = self._model(y_train[:, target], strength, None)
                error = np.nanmean(np.square(said(rows["valid"]) - check)) if (~np.isnan(check)).any() else 0.0
                if error < best:
                    best = float(error)
                    for name, x in rows.items():
                        out[name][:, target] = said(x)
        return out


def fitted_to_all(
    texts: Sequence[str], y: np.ndarray, parts: Sequence[np.ndarray], classes: int | None, characters: bool = True
) -> tuple[Callable[[Sequence[str]], np.ndarray], float, np.ndarray]:
    """A baseline of one target made as a probe is: the penalty chosen on rows held out, then vocabulary and model of all texts.

    Args:
        texts: Training texts.
        y: `[text]` class indices, or values, all defined.
        parts: `[text]` bool each: the rows held out of one fit.
        classes: Number of classes; None for values.
        characters: As in `TextBaseline`.

    Returns:
        What reads texts (as `TextBaseline.fitted`), the penalty with the least log-loss (squared error of values), and what was said with
        it of the rows held out, part by part.
    """
    every = list(texts)
    rows = [(np.flatnonzero(~held), np.flatnonzero(held)) for held in parts]
    readers = [TextBaseline([every[i] for i in inside], characters) for inside, _ in rows]
    truth = np.concatenate([y[out] for _, out in rows])
    grid = ALPHA_GRID if classes is None else C_GRID
    found = []
    for strength in grid:
        said = [
            reader.fitted(y[inside], strength, classes)([every[i] for i in out])
            for reader, (inside, out) in zip(readers, rows, strict=True)
        ]
        found.append(np.concatenate(said))
    if classes is None:
        losses = [np.square(said - truth).mean() for said in found]
    else:
        losses = [-said[np.arange(len(truth)), truth.astype(int)].mean() for said in found]
    best = int(np.argmin(losses))
    return TextBaseline(every, characters).fitted(y, grid[best], classes), grid[best], found[best]
