"""`Bottleneck`: a sparse linear head on named features, what it scores, and why it says what it says."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse, special

from probekit.probes.intervals import Estimate, paired_interval
from saes.concept_bottleneck.pooling import Pool, pool_features
from saes.features import SparseFeatures

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CONCEPTS = "concepts"
SOURCES = {
    CONCEPTS: "concepts chosen",
    "random": "concepts drawn at random",
    "shuffled": "shuffled labels",
    "dense": "dense probe",
    "majority": "majority class",
}


@dataclass(frozen=True)
class Head:
    """Logistic regression on the first so many concepts: `scores = coef @ activations + intercept`.

    Attributes:
        coef: `[output, concept]` float64; one output (the second class) for two classes, one a class otherwise.
        intercept: `[output]` float64.
        C: Inverse strength of its L1 penalty, chosen on validation.
    """

    coef: np.ndarray
    intercept: np.ndarray
    C: float


@dataclass(frozen=True)
class Explanation:
    """One prediction, taken apart: `logit = intercept + sum(contribution)`.

    Attributes:
        class_: The class that is explained.
        probability: By class.
        logit: Score of `class_`: its log odds for two classes; otherwise what the softmax is taken of.
        intercept: The part that no concept has.
        features: `[concept]` number of the feature.
        names: `[concept]` its name.
        activation: `[concept]` float64, of the item.
        contribution: `[concept]` float64: activation times weight for `class_`.
    """

    class_: str
    probability: dict[str, float]
    logit: float
    intercept: float
    features: np.ndarray
    names: tuple[str, ...]
    activation: np.ndarray
    contribution: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """The concepts that contribute, largest first: feature, name, activation, contribution."""
        import pandas as pd

        order = np.argsort(-np.abs(self.contribution), kind="stable")
        order = order[self.contribution[order] != 0]
        return pd.DataFrame(
            {
                "feature": self.features[order],
                "name": [self.names[i] for i in order],
                "activation": self.activation[order],
                "contribution": self.contribution[order],
            }
        )

    def __str__(self) -> str:
        head = f"{self.class_}: probability {self.probability[self.class_]:.3f}, logit {self.logit:+.3f}"
        parts = [
            f"{r.contribution:+8.3f}  {r.name} (feature {r.feature})" for r in self.to_frame().itertuples(index=False)
        ]
        return "\n".join([head, *parts, f"{self.intercept:+8.3f}  without any concept"])


@dataclass(frozen=True, repr=False)
class Bottleneck:
    """Heads on the first 1, 2, 4, ... chosen concepts; one of them, chosen on validation, is the one that predicts.

    An item is a sequence (its rows pooled) when the labels belong to sequences, and a row when they belong to tokens.
    Items go in as `SparseFeatures` of the same SAE, or as `[item, feature]` arrays, sparse or not, pooled as `pooled` does.

    Attributes:
        label_set: Name of what is predicted.
        classes: Names of the classes.
        features: `[most]` int64, the features that are concepts, in the order chosen.
        names: `[most]` their names.
        fires: `[most]` share of the training items in which each fires.
        spread: `[most]` standard deviation of its activation over training items.
        heads: By number of concepts.
        count: Concepts of the head that predicts: the fewest whose log-loss on validation is within one standard error
            of the least (Hastie, Tibshirani & Friedman 2009, section 7.10).
        level: `"sequence"` or `"token"`.
        pool: How rows of a sequence are pooled.
        width: Features of the SAE.
        estimates: By source and number of concepts (0: none, or the question does not arise), by metric: figures on test
            items with their bootstrap draws, the same draws for all. Sources are `concepts`, `random` (as many drawn at
            random from the named features, mean of three draws), `shuffled` (all steps on shuffled labels), `majority`, and
            `dense` when activations were given.
        parts: `train`, `valid`, `test`: `[item]` index of the sequence (or row) of each.
        off: Features that are switched off.
        chosen: The number of concepts that validation chose; `count` is it unless `at` asked for another.
    """

    label_set: str
    classes: tuple[str, ...]
    features: np.ndarray
    names: tuple[str, ...]
    fires: np.ndarray
    spread: np.ndarray
    heads: Mapping[int, Head]
    count: int
    level: str
    pool: Pool
    width: int
    estimates: Mapping[tuple[str, int], Mapping[str, Estimate]]
    parts: Mapping[str, np.ndarray]
    off: frozenset[int] = frozenset()
    chosen: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "chosen", self.chosen or self.count)

    def __repr__(self) -> str:
        at = self.estimates[CONCEPTS, self.count]["accuracy"]
        # The figure is of all concepts: what it is without some of them was not measured.
        said = f"{len(self.off)} switched off" if self.off else f"accuracy {float(at.value[0]):.3f}"
        return f"Bottleneck({self.label_set}: {self.count} concepts, {said})"

    # What it scores

    def to_frame(self, metric: str = "accuracy") -> pd.DataFrame:
        """Figures on test items: source, concepts, the metric, low, high (95 %, bootstrapped over groups), n (groups).

        Args:
            metric: `accuracy`, `balanced_accuracy` or `auroc` (mean over classes).

        Raises:
            ValueError: concepts are switched off, so that these figures are not of this bottleneck.
        """
        import pandas as pd

        rows = []
        figures = self._figures(metric)
        for source, concepts in sorted(figures, key=lambda key: (list(SOURCES).index(key[0]), key[1])):
            estimate = figures[source, concepts][metric]
            low, high = estimate.interval()
            rows.append(
                {"source": source, "concepts": concepts or pd.NA, metric: estimate.value[0]}
                | {"low": low[0], "high": high[0], "n": estimate.clusters[0]}
            )
        return pd.DataFrame(rows).astype({"concepts": "Int64"})

    def differences(self, source: str = "dense", metric: str = "accuracy") -> pd.DataFrame:
        """How far each head is from another source, in pairs: over the same test items and bootstrap draws.

        Args:
            source: `dense`, `majority`, `shuffled` or `random`; the last two head by head.
            metric: As `to_frame` takes.

        Returns:
            concepts, difference (concepts - source), low, high.

        Raises:
            ValueError: no such source here, or concepts are switched off.
        """
        import pandas as pd

        figures = self._figures(metric)
        if not any(there == source for there, _ in figures):
            hint = "; give bottleneck(activations=...) for the dense probe" if source == "dense" else ""
            raise ValueError(
                f"there is no {source!r} here, only {', '.join(dict.fromkeys(s for s, _ in figures))}{hint}"
            )
        rows = []
        for count in self.heads:
            one = figures[CONCEPTS, count][metric]
            other = figures.get((source, count), figures.get((source, 0), {}))[metric]
            low, high = paired_interval((one.draws - other.draws)[:, 0])
            rows.append(
                {"concepts": count, "difference": float((one.value - other.value)[0]), "low": low, "high": high}
            )
        return pd.DataFrame(rows)

    def _figures(self, metric: str) -> Mapping[tuple[str, int], Mapping[str, Estimate]]:
        if self.off:
            raise ValueError(
                "the figures are of the bottleneck with all its concepts, and some are switched off here: compare "
                "predict(...) with the labels of parts['test'] instead"
            )
        known = next(iter(self.estimates.values()))
        if metric not in known:
            raise ValueError(f"no metric {metric!r}; there are {', '.join(known)}")
        return self.estimates

    def plot(self, metric: str = "accuracy") -> go.Figure:
        """The metric against the number of concepts, with 95 % intervals, beside the dense probe and the controls."""
        from saes.concept_bottleneck.plot import plot_bottleneck

        return plot_bottleneck(self, metric)

    def save_page(
        self,
        path: str | os.PathLike[str],
        *,
        examples: Sequence[tuple[str, Explanation]] = (),
        title: str | None = None,
        command: str | None = None,
    ) -> Path:
        """Write figures, concepts and examples as one HTML file that opens without a network.

        Args:
            path: The file to write; a folder gets `index.html`.
            examples: Texts with what `explain` says of them.
            title: Of the page.
            command: The command line that makes it again, to copy.

        Returns:
            The path of the file.

        Raises:
            ValueError: concepts are switched off, so that the figures are not of this bottleneck.
        """
        from saes.concept_bottleneck.page import save_bottleneck_page

        return save_bottleneck_page(self, path, examples=examples, title=title, command=command)

    # What it is made of

    def concepts(self, class_: str | None = None) -> pd.DataFrame:
        """The concepts that speak for or against a class, those that move it most first.

        Args:
            class_: Left out, all classes (of two, the second; weights of the first are the same with the other sign).

        Returns:
            class, feature, name, weight, effect (weight times the standard deviation of the activation), fires.
        """
        import pandas as pd

        shown = self.classes[1:] if len(self.classes) == 2 else self.classes
        rows = []
        for name in shown if class_ is None else (class_,):
            weight = self._of_class(self._head().coef, name)
            effect = weight * self.spread[: self.count]
            for i in np.argsort(-np.abs(effect), kind="stable"):
                if weight[i] != 0:
                    rows.append((name, int(self.features[i]), self.names[i], weight[i], effect[i], self.fires[i]))
        return pd.DataFrame(rows, columns=["class", "feature", "name", "weight", "effect", "fires"])

    def at(self, count: int) -> Bottleneck:
        """The same with another number of concepts in use.

        Raises:
            KeyError: no head of that many; names the numbers there are.
        """
        if count not in self.heads:
            raise KeyError(f"there is no head on {count} concepts, only on {', '.join(map(str, self.heads))}")
        return replace(self, count=count)

    def without(self, concepts: int | str | Iterable[int | str]) -> Bottleneck:
        """The same with concepts switched off: it predicts as if they never fired.

        Args:
            concepts: Feature numbers or names; a name switches off all concepts that bear it.

        Raises:
            KeyError: not a concept here; names near ones.
        """
        given = [concepts] if isinstance(concepts, int | np.integer | str) else list(concepts)
        off = set(self.off)
        for concept in given:
            bears = [
                int(feature)
                for feature, name in zip(self.features, self.names, strict=True)
                if (name == concept if isinstance(concept, str) else int(feature) == concept)
            ]
            if not bears:
                near = difflib.get_close_matches(str(concept), [*self.names, *map(str, self.features)], n=3, cutoff=0.3)
                raise KeyError(f"{concept!r} is no concept here; near it: {', '.join(near) or 'nothing'}")
            off.update(bears)
        return replace(self, off=frozenset(off))

    # What it says

    def pooled(self, features: SparseFeatures) -> sparse.csr_array:
        """`[item, feature]` of encoded features: sequences pooled as in training, or the rows as they are."""
        return sparse.csr_array(features.matrix) if self.level == "token" else pool_features(features, self.pool)

    def predict(self, items: Any) -> np.ndarray:
        """`[item]` int64 index into `classes`."""
        index: np.ndarray = self.predict_log_proba(items).argmax(1)
        return index

    def predict_proba(self, items: Any) -> np.ndarray:
        """`[item, class]` float64."""
        probability: np.ndarray = np.exp(self.predict_log_proba(items))
        return probability

    def predict_log_proba(self, items: Any) -> np.ndarray:
        """`[item, class]` float64.

        Args:
            items: `SparseFeatures`, or `[item, feature]`, sparse or not.

        Raises:
            ValueError: items of another width.
        """
        head = self._head()
        scores = self._activations(items) @ head.coef.T + head.intercept
        if len(self.classes) == 2:
            scores = scores * np.array([-1.0, 1.0])
            log: np.ndarray = special.log_expit(scores)
        else:
            log = special.log_softmax(scores, axis=1)
        return log

    def explain(self, item: Any, class_: str | None = None) -> Explanation:
        """Why one item is predicted as it is.

        Args:
            item: `[feature]` or `[1, feature]`, sparse or not: a row of `pooled(features)`.
            class_: To explain; left out, the one predicted.

        Raises:
            KeyError: no such class.
            ValueError: not one item, or of another width.
        """
        activation = self._activations(item)
        if len(activation) != 1:
            raise ValueError(f"explain takes one item, got {len(activation)}: pass one row of pooled(features)")
        probability = self.predict_proba(item)[0]
        class_ = self.classes[int(probability.argmax())] if class_ is None else class_
        head = self._head()
        contribution = activation[0] * self._of_class(head.coef, class_)
        intercept = float(self._of_class(head.intercept[:, None], class_)[0])
        return Explanation(
            class_=class_,
            probability=dict(zip(self.classes, probability.tolist(), strict=True)),
            logit=intercept + float(contribution.sum()),
            intercept=intercept,
            features=self.features[: self.count],
            names=self.names[: self.count],
            activation=activation[0],
            contribution=contribution,
        )

    def _head(self) -> Head:
        head = self.heads[self.count]
        on = ~np.isin(self.features[: self.count], list(self.off))
        return replace(head, coef=head.coef * on)

    def _of_class(self, values: np.ndarray, class_: str) -> np.ndarray:
        """The row of `[output, ...]` that speaks for a class."""
        if class_ not in self.classes:
            raise KeyError(f"no class {class_!r}; the classes are {', '.join(self.classes)}")
        index = self.classes.index(class_)
        row: np.ndarray = values[index] if len(values) > 1 else values[0] * (1 if index else -1)
        return row

    def _activations(self, items: Any) -> np.ndarray:
        """`[item, concept]` float64."""
        x = self.pooled(items) if hasattr(items, "matrix") else items
        x = x if sparse.issparse(x) else np.asarray(x)
        if x.ndim not in (1, 2) or x.shape[-1] != self.width:
            raise ValueError(f"items must be [item, {self.width:,} features], got shape {x.shape}")
        x = sparse.csr_array(x.reshape(1, -1) if x.ndim == 1 else x)
        taken: np.ndarray = sparse.csc_array(x)[:, self.features[: self.count]].toarray().astype(np.float64)
        return taken

    # Files

    def save(self, folder: str | Path) -> Path:
        """Write `bottleneck.json` and `bottleneck.safetensors`."""
        from saes.concept_bottleneck.files import write_bottleneck

        return write_bottleneck(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Bottleneck:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no bottleneck there.
            ValueError: files of something else, or damaged.
        """
        from saes.concept_bottleneck.files import read_bottleneck

        return read_bottleneck(Path(folder))
