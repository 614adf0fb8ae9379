"""`compare`: an SAE's features beside linear probes, label by label: which reads more, and do they agree?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.data import Dataset
from probekit.probes.intervals import Estimate
from saes.comparing.causal import CausalAgreement, causal_agreement
from saes.comparing.sparse_probes import SparseProbes, q_values, sparse_probes
from saes.features import SparseFeatures, encode
from saes.loading import check_features, check_read, fingerprint, site_of
from saes.naming.names import Names
from saes.overlap import Overlap, Stability, direction_of, overlap, stability
from saes.scoring.columns import ColumnName, Labels, groups_of
from saes.scoring.feature_scores import BestFeatures, known_mean, score
from saes.scoring.reconstruction import Reconstruction, reconstruct

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from probekit.activations import Activations
    from probekit.models import Model
    from probekit.probes import SweepResult

_ROWS = 4000
"""Rows the covariance of the activations is taken from."""
VERDICTS = ("probe better", "SAE better", "no difference", "not defined")


@dataclass(frozen=True, repr=False)
class Comparison:
    """Features of one SAE and probes of one sweep at one site.

    Attributes:
        site: Where both read.
        sae: The SAE's fingerprint.
        names: `[column]` what is asked; all that follows is in this order.
        overlap: How near the probes' directions come to decoder vectors.
        best: Each label's best feature as a detector, by itself.
        reconstruction: Labels told from precise features alone.
        sparse: Probes on few features beside the dense probe, on the same rows.
        stability: Of the features over SAEs of other seeds, if some were given.
        named: `[feature]` bool, if names were given.
        causal: Whether feature and probe move the output alike, if a model was given.
    """

    site: str
    sae: str
    names: tuple[ColumnName, ...]
    overlap: Overlap
    best: BestFeatures
    reconstruction: Reconstruction
    sparse: SparseProbes
    stability: Stability | None = None
    named: np.ndarray | None = None
    causal: CausalAgreement | None = None

    @property
    def largest(self) -> str:
        """The probe on most features: what the dense probe is held against in the verdicts."""
        return [name for name in self.sparse.estimates if name != "dense"][-1]

    @property
    def cosine_q(self) -> np.ndarray:
        """`[column]` expected share of labels whose cosine is chance among those with a q up to this (Benjamini-Hochberg)."""
        return q_values(self.overlap.p)

    def verdicts(self, probe: str | None = None) -> pd.DataFrame:
        """Label by label: `probe better`, `SAE better`, `no difference` or `not defined` (one class only), with the interval of
        the difference in AUROC. Intervals are 95 % each: where nothing differs, one label in twenty has a verdict all the same;
        `q` corrects for that (see `SparseProbes.verdicts`).

        Args:
            probe: `"1 feature"`, ...; the one on most features unless named.
        """
        return self.sparse.verdicts(probe or self.largest)

    def counted(self) -> dict[str, int]:
        """How many labels have each verdict; `not defined` only where there are such."""
        found = self.verdicts().verdict.value_counts()
        return {said: int(found.get(said, 0)) for said in VERDICTS if said != "not defined" or said in found}

    def to_frame(self) -> pd.DataFrame:
        """A row a label: its best feature and that one's F1, AUROC by probe, verdict, and how far the directions agree.

        `q` and `cosine_q` are `p` (of the difference in AUROC) and `cosine_p` after Benjamini and Hochberg over the labels. What
        is not defined is NaN, and `nearest` is -1 where the probe has no direction.
        """
        import pandas as pd

        asked = {key: [getattr(name, key) for name in self.names] for key in ("label_set", "target", "class_")}
        best = {key: getattr(self.best, key) for key in ("feature", "precision", "recall", "f1")}
        frame = pd.DataFrame(asked | best).rename(columns={"class_": "class"})
        frame = frame.assign(f1_reconstructed=self.reconstruction.f1, detectors=self.reconstruction.detectors)
        for probe, estimate in self.sparse.estimates.items():
            frame[f"auroc_{probe.replace(' ', '_')}"] = estimate.value
        verdicts = self.verdicts()
        frame = frame.assign(**{name: verdicts[name] for name in ("difference", "low", "high", "p", "q", "verdict")})
        frame = frame.assign(
            nearest=self.overlap.feature, cosine=self.overlap.cosine, cosine_by_chance=self.overlap.chance,
            cosine_p=self.overlap.p, cosine_q=self.cosine_q,
        )  # fmt: skip
        for i, k in enumerate(self.overlap.counts):
            frame[f"in_span_of_{k}"] = self.overlap.in_span[:, i]
        if self.causal is not None:
            frame = frame.assign(
                causal=self.causal.correlation, causal_low=self.causal.low, causal_high=self.causal.high,
                causal_by_chance=self.causal.chance,
            )  # fmt: skip
        return frame

    def summary(self) -> str:
        """The comparison in a few lines."""
        n = len(self.names)
        b = self.best
        lines = [f"{n:,} labels at {self.site}, {b.features:,} features"]
        lines.append(f"  best feature's F1 (coverage)    {b.coverage:.3f} ({b.low:.3f} to {b.high:.3f})")
        r = self.reconstruction
        lines.append(f"  reconstruction from detectors   {r.mean_f1:.3f} ({r.low:.3f} to {r.high:.3f})")
        for probe, estimate in self.sparse.estimates.items():
            mean, (ends_low, ends_high) = _mean(estimate)
            lines.append(f"  AUROC of {probe:<22} {mean:.3f} ({ends_low:.3f} to {ends_high:.3f})")
        said = ", ".join(f"{verdict} {count}" for verdict, count in self.counted().items())
        differ = int((self.verdicts().q <= 0.05).sum())
        lines.append(f"  dense probe against {self.largest}: {said}; {differ} differ with q <= 0.05 over all labels")
        o = self.overlap
        tested = ~np.isnan(o.p)
        beyond = known_mean(np.where(tested, self.cosine_q <= 0.05, np.nan))
        lines.append(
            f"  cosine with the nearest feature {known_mean(np.abs(o.cosine)):.3f} in the mean, {o.chance:.3f} by chance; "
            f"beyond chance (q <= 0.05) for {beyond:.0%} of "
            + ("the labels" if tested.all() else f"{tested.sum()} labels that a probe reads")
        )
        if self.causal is not None:
            known = ~np.isnan(self.causal.correlation)
            beyond = known_mean(np.where(known, self.causal.low > self.causal.chance, np.nan))
            lines.append(
                f"  effects on the output correlate {known_mean(self.causal.correlation):.3f} in the mean, "
                f"{known_mean(self.causal.chance):.3f} by chance; beyond it for {beyond:.0%} of {known.sum()} labels"
            )
        if self.stability is not None:
            s = self.stability
            lines.append(f"  features over seeds: matched cosine {s.cosine.mean():.3f}, {s.chance:.3f} by chance")
            if self.named is not None and self.named.any() and not self.named.all():
                one, other = s.cosine[self.named].mean(), s.cosine[~self.named].mean()
                lines.append(f"    named {one:.3f}, not named {other:.3f}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.names)} labels at {self.site}; .summary() reads it out>"

    def _repr_html_(self) -> str:
        from probekit.report.blocks import Block
        from saes.comparing.page import comparison_blocks

        return Block("group", {"blocks": comparison_blocks(self)})._repr_html_()

    def plot(self) -> go.Figure:
        """Three panels: AUROC by number of features, each label's best F1, and the cosines beside chance."""
        from saes.comparing.plot import plot_comparison

        return plot_comparison(self)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `comparison.json` and `comparison.safetensors` to a folder, made if need be; returns it."""
        from saes.comparing.files import write_comparison

        return write_comparison(self, Path(folder))

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Comparison:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no comparison there.
            ValueError: a damaged one, or one of another format.
        """
        from saes.comparing.files import read_comparison

        return read_comparison(Path(folder))

    def save_page(self, path: str | os.PathLike[str], *, title: str | None = None, command: str | None = None) -> Path:
        """Write the verdicts, the figures and a table of all labels as one HTML file that opens without a network.

        Args:
            path: The file to write; a folder gets `index.html`.
            title: Of the page.
            command: The command line that makes it again, to copy.

        Returns:
            The path of the file.
        """
        from saes.comparing.page import save_comparison_page

        return save_comparison_page(self, path, title=title, command=command)


def _mean(estimate: Estimate) -> tuple[float, tuple[float, float]]:
    mean = estimate.mean()
    low, high = mean.interval()
    return float(mean.value[0]), (float(low[0]), float(high[0]))


def compare(
    probes: SweepResult,
    sae: Any,
    activations: Activations,
    labels: Labels,
    *,
    features: SparseFeatures | None = None,
    others: Sequence[Any] = (),
    names: Names | None = None,
    model: Model | None = None,
    data: Dataset | Sequence[str] | None = None,
    groups: np.ndarray | None = None,
    counts: Sequence[int] = (1, 2, 4, 8, 16, 32),
    max_rows: int = 20_000,
    n_boot: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Hold an SAE's features against the probes of a sweep.

    Directions are those of the sweep's probes at the SAE's site. AUROCs are of probes fitted here, dense and sparse on the same
    training rows with the same choice of penalties, so that neither has an advantage; figures are of test sequences. (A split that
    comes with a data set is kept to throughout.)

    A label that shows one class only (a centre square that is empty, on Othello's board) has the verdict `not defined`; where
    the sweep's probe reads nothing, or the sweep left the target out for showing one class, the cosines are NaN.

    Args:
        probes: A sweep over the label sets, at the SAE's site among others.
        sae: A `sae_lens.SAE`.
        activations: A store, or arrays, with the site.
        labels: Label sets of classes, defined everywhere, or a data set with some (whose groups and split then hold).
        features: The activations encoded, if they are already.
        others: SAEs of the same site and width from other seeds, for the stability of the features.
        names: Of the features: are stable features the named ones?
        model, data: The model and what was captured, to compare what edits along feature and probe do to the output.
        groups: `[sequence]`, sequences that must stay in one half or part; a data set given as labels brings its own.
        counts: Numbers of features of the sparse probes.
        max_rows: Training rows at most.
        n_boot: Bootstrap draws, over groups.
        seed: Of splits, draws and random directions.
        progress: Whether to draw a bar (on stderr, where it is a terminal).

    Raises:
        KeyError: the sweep lacks the site, a label set, a target or a class.
        ValueError: features of another SAE; a sweep, a model or data that the activations are not of; labels of other data, continuous or not defined
            everywhere; a model without data.
    """
    if (model is None) != (data is None):
        raise ValueError("causal agreement needs both the model and the data it reads")
    site = site_of(sae)
    features = encode(sae, activations) if features is None else features
    check_features(sae, features)
    check_read(activations, model, data)
    _check_same_model(probes, activations)
    scores = score(features, labels, groups=groups, seed=seed)
    directions = np.stack([_direction(probes, one, site) for one in scores.names])
    some = np.sort(np.random.default_rng(seed).permutation(len(activations))[:_ROWS])
    near = activations.read(site, some)
    named = None if names is None else np.isin(np.arange(features.width), [one.feature for one in names])
    pairs = list(zip(scores.best_feature.tolist(), directions, strict=True))
    return Comparison(
        site=site,
        sae=fingerprint(sae),
        names=scores.names,
        overlap=overlap(directions, sae, near, counts=counts, seed=seed),
        best=scores.best(),
        reconstruction=reconstruct(features, labels, groups=groups, seed=seed),
        sparse=sparse_probes(
            features,
            labels,
            activations=activations,
            groups=groups,
            counts=counts,
            max_rows=max_rows,
            n_boot=n_boot,
            seed=seed,
            progress=progress,
        ),
        stability=stability([sae, *others], seed=seed) if others else None,
        named=named,
        causal=None
        if model is None or data is None
        else causal_agreement(
            pairs, sae, features, near, model, data, groups=groups_of(features, labels, groups), seed=seed
        ),
    )


def _check_same_model(probes: SweepResult, activations: Activations) -> None:
    probed = probes.manifest.get("model") or {}
    manifest = getattr(activations, "manifest", None)
    ours, theirs = probed.get("fingerprint"), getattr(manifest, "model_fingerprint", None)
    if manifest is not None and ours and theirs and ours != theirs:
        raise ValueError(
            f"the sweep's probes are of {probed.get('name')!r} ({ours}), but the activations are of {manifest.model!r} "
            f"({theirs})"
        )


def _direction(probes: SweepResult, name: ColumnName, site: str) -> np.ndarray:
    """`[d]` the probe's direction towards a class; NaN where there is none, because training showed one class only."""
    by_site = probes.probes.get(name.label_set)
    if by_site is None:
        raise KeyError(f"the sweep has no label set {name.label_set!r}; it has: {', '.join(probes.probes)}")
    if site not in by_site:
        raise KeyError(f"the sweep has no probes at {site}, where the SAE reads: sweep with sites=[..., {site!r}]")
    stack = by_site[site]
    nothing = np.full(stack.coef.shape[-1], np.nan)
    if name.target not in stack.targets:
        # A sweep leaves targets out that training shows in one class, and says so in its notes.
        if any(note.startswith(f"{name.label_set}: ") and "targets are left out" in note for note in probes.notes):
            return nothing
        raise KeyError(
            f"the sweep's label set {name.label_set!r} has no target {name.target!r}; it has: "
            f"{', '.join(stack.targets[:20])}"
        )
    if name.class_ not in stack.classes:
        raise KeyError(
            f"the sweep's label set {name.label_set!r} has no class {name.class_!r}; it has: {', '.join(stack.classes)}"
        )
    direction = direction_of(stack, name.target, name.class_)
    return nothing if direction is None else np.asarray(direction.vector, np.float64)
