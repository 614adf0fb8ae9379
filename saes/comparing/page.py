"""A comparison of features and probes as a page, or as blocks of one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from probekit.report import blocks, wording
from probekit.report.blocks import Block, Page
from probekit.versions import versions_of
from saes.comparing.plot import panels
from saes.scoring.feature_scores import known_mean

if TYPE_CHECKING:
    import pandas as pd

    from saes.comparing.comparison import Comparison

_CAPTIONS = (
    "Probes on the features that tell most, on all of them, and on the activations themselves (dense): same rows, same "
    "penalties to choose from. Shaded: 95 % interval of the mean.",
    "A point a label. Blue: its best single feature. Orange: “precise detectors”, features right at least 95 % of the time on the "
    "half they were chosen on, any number of them together; so orange may lie above blue.",
    "Activations lie in few directions, so some decoder vector is always near: “by chance” is what random directions with "
    "the activations' own spectrum reach. A point on that line or below is no nearer than chance.",
)
_READING = {
    "verdict": "Whether the interval of the difference lies above zero (probe better), below (SAE better) or holds it. Intervals are "
    "95 % each: where nothing differs, one label in twenty has a verdict all the same; the q beside it is corrected for that over all "
    "labels (Benjamini-Hochberg).",
    "F1": "Of the best single feature; feature and threshold chosen on one half of the sequences, measured on the other.",
    "1 feature, all features, dense": "AUROC on test sequences of a probe on that many features, or on the activations.",
    "difference": "AUROC of the dense probe less that of the probe on most features, with its paired 95 % interval.",
    "cosine": "Of the probe's direction with the nearest decoder vector; p is the share of random directions that come as near, q the same "
    "after the correction over all labels (Benjamini-Hochberg).",
    "in the span": "Share of a probe direction's squared length that lies in the span of so many decoder vectors, chosen greedily; "
    "by chance: the same for random directions with the activations' own spectrum.",
    "features over seeds": "Cosine of each feature with its match in SAEs of other seeds (Hungarian matching), in the mean.",
    "effects": "How alike taking out the feature and a push as long against the probe's direction change the output; beside "
    "it, by chance: the same for pushes as long along random directions with the activations' own spectrum.",
    "not defined": "The label shows one class only on the rows that count (a square that is always empty, or never).",
}


def comparison_blocks(comparison: Comparison) -> list[Block]:
    """The verdicts, the three figures and the table of labels."""
    table = _table(comparison)
    verdicts = [
        {
            "name": said,
            "value": f"{count} of {len(comparison.names)}",
            "detail": f"label{'s' * (len(comparison.names) != 1)}",
        }
        for said, count in comparison.counted().items()
    ]
    figures = [
        blocks.figure(figure, f"{title.removesuffix('?')}{'?' if title.endswith('?') else '.'} {caption}")
        for (title, figure), caption in zip(panels(comparison).items(), _CAPTIONS, strict=True)
    ]
    absent = {"effects": comparison.causal is None, "features over seeds": comparison.stability is None}
    reading = {key: text for key, text in _READING.items() if not absent.get(key, False)}
    return [
        blocks.text(
            f"Which reads a label better: a linear probe on the activations, or one on {comparison.largest} of the SAE? Judged label by "
            "label by the difference in AUROC on test sequences, with its paired 95 % interval."
        ),
        blocks.tiles(verdicts),
        blocks.columns(*figures[:2]),
        blocks.columns(figures[2], blocks.table(_means(comparison), "Means over labels.")),
        blocks.details(f"All {len(table):,} labels", blocks.table(table)),
        blocks.details("How to read it", blocks.facts(reading)),
    ]


def save_comparison_page(
    comparison: Comparison, path: str | os.PathLike[str], *, title: str | None = None, command: str | None = None
) -> Path:
    """See `Comparison.save_page`."""
    where = wording.site_name(comparison.site)
    page = Page(title or f"Features and probes {where}", comparison.site)
    page.add(*comparison_blocks(comparison))
    page.heading("Make it again")
    if command:
        page.add(blocks.code(command))
    versions = ", ".join(f"{name} {version}" for name, version in versions_of("torch", "numpy", "sae-lens").items())
    return page.add(blocks.facts({"SAE fingerprint": comparison.sae, "versions": versions})).write(path).resolve()


def _means(comparison: Comparison) -> pd.DataFrame:
    """What a label in the mean comes to."""
    import pandas as pd

    r, o, causal = comparison.reconstruction, comparison.overlap, comparison.causal
    best = comparison.best
    rows: list[tuple[str, float, str]] = [
        ("F1 of the best feature (coverage)", best.coverage, f"{best.low:.3f} to {best.high:.3f}"),
        ("F1 from precise detectors", r.mean_f1, f"{r.low:.3f} to {r.high:.3f}"),
    ]
    for probe, estimate in comparison.sparse.estimates.items():
        mean = estimate.mean()
        (low,), (high,) = mean.interval()
        rows.append((f"AUROC of {probe}", float(mean.value[0]), f"{low:.3f} to {high:.3f}"))
    rows.append(("cosine with the nearest feature", float(known_mean(abs(o.cosine))), f"by chance {o.chance:.3f}"))
    for i, k in enumerate(o.counts):
        of_probes = float(known_mean(o.in_span[:, i]))
        rows.append((f"probe in the span of {_features(k)}", of_probes, f"by chance {o.chance_in_span[i]:.3f}"))
    if causal is not None:
        effects = float(known_mean(causal.correlation))
        rows.append(("correlation of the effects", effects, f"by chance {known_mean(causal.chance):.3f}"))
    if comparison.stability is not None:
        s, named = comparison.stability, comparison.named
        rows.append(("features over seeds, matched cosine", float(s.cosine.mean()), f"by chance {s.chance:.3f}"))
        if named is not None and named.any() and not named.all():
            low, high = _difference(s.cosine[named], s.cosine[~named])
            rows.append(
                ("- features with a name", float(s.cosine[named].mean()), f"difference {low:+.3f} to {high:+.3f}")
            )
            rows.append(("- features without", float(s.cosine[~named].mean()), ""))
    return pd.DataFrame(rows, columns=["", "mean", "95 % interval, or beside it"])


def _features(count: int) -> str:
    return f"{count} feature{'s' * (count != 1)}"


def _difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """95 % interval of the difference of two means, bootstrapped over features."""
    rng = np.random.default_rng(0)
    draws = [rng.choice(one, len(one)).mean() - rng.choice(other, len(other)).mean() for _ in range(1000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _table(comparison: Comparison) -> pd.DataFrame:
    """A row a label, with what is compared and no more."""
    import pandas as pd

    frame = comparison.to_frame()
    shown = {
        "label": [str(name) for name in comparison.names],
        "feature": ["–" if f1 != f1 else str(feature) for feature, f1 in zip(frame.feature, frame.f1, strict=True)],
        "F1": frame.f1,
    }
    for probe in comparison.sparse.estimates:
        shown[probe] = frame[f"auroc_{probe.replace(' ', '_')}"]
    ends = zip(frame.low, frame.high, strict=True)
    shown |= {
        "difference": frame.difference,
        "95 % interval": ["–" if low != low else f"{low:+.3f} to {high:+.3f}" for low, high in ends],
        "verdict": frame.verdict,
        "q": frame.q,
        "cosine": frame.cosine.abs(),
        "p of the cosine": frame.cosine_p,
        "q of the cosine": frame.cosine_q,
    }
    if comparison.overlap.counts:
        k = comparison.overlap.counts[-1]
        shown[f"in the span of {k}"] = frame[f"in_span_of_{k}"]
    if comparison.causal is not None:
        shown |= {"effects": frame.causal, "effects by chance": frame.causal_by_chance}
    return pd.DataFrame(shown)
