"""A concept bottleneck as a page: how well so many concepts do, which they are, and what single predictions rest on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from probekit.report import blocks, wording
from probekit.report.blocks import Block, Page
from probekit.versions import versions_of
from saes.concept_bottleneck.result import CONCEPTS, SOURCES

if TYPE_CHECKING:
    import pandas as pd

    from saes.concept_bottleneck.result import Bottleneck, Explanation

_READING = {
    "concept": "A feature of the SAE, by its name; where labels belong to texts, its activations pooled over the text.",
    "concepts drawn at random": "As many named features drawn at random, each with its own fitted head.",
    "shuffled labels": "The same steps, from the choice of concepts on, with the labels shuffled.",
    "chosen on validation": "The fewest concepts whose log-loss on validation is within one standard error of the least. All "
    "figures are of test items, which chose nothing.",
    "weight, effect": "Of the head: what one unit of activation adds to the class's score, and that times the standard deviation "
    "of the activation: how much the concept moves the score from item to item.",
    "contribution": "Activation times weight: the parts of a score, which add up with the intercept to the whole.",
}


def bottleneck_blocks(bottleneck: Bottleneck, examples: Sequence[tuple[str, Explanation]] = ()) -> list[Block]:
    """The figures, the concepts by class, and examples taken apart."""
    metric = "balanced_accuracy" if len(bottleneck.classes) > 2 else "accuracy"
    n = {part: len(items) for part, items in bottleneck.parts.items()}
    said = "texts" if bottleneck.level == "sequence" else "tokens"
    parts = [
        blocks.text(
            f"How well {'does one named feature' if bottleneck.count == 1 else f'do {bottleneck.count} named features'} tell {bottleneck.label_set}? Fitted on {n['train']:,} "
            f"{said}, chosen on {n['valid']:,}, measured on {n['test']:,}."
            + ("" if bottleneck.count == bottleneck.chosen else f" Validation chose {bottleneck.chosen}.")
        ),
        blocks.tiles(_tiles(bottleneck, metric)),
        blocks.columns(
            blocks.figure(bottleneck.plot("accuracy"), "Accuracy on test items. Shaded: 95 % intervals."),
            blocks.figure(
                bottleneck.plot("auroc"), "AUROC on test items, which does not depend on how common a class is."
            ),
        ),
        blocks.heading("The concepts"),
        *(
            blocks.details(f"Towards “{class_}”", blocks.table(_concepts(bottleneck, class_)))
            for class_ in (bottleneck.classes[1:] if len(bottleneck.classes) == 2 else bottleneck.classes)
        ),
    ]
    if examples:
        parts.append(blocks.heading("Predictions taken apart"))
    for text, explanation in examples:
        parts += [blocks.text(text), blocks.table(_taken_apart(explanation), _outcome(explanation))]
    parts.append(blocks.details("All figures", blocks.table(_figures(bottleneck))))
    parts.append(blocks.details("How to read it", blocks.facts(_READING)))
    return parts


def save_bottleneck_page(
    bottleneck: Bottleneck,
    path: str | os.PathLike[str],
    *,
    examples: Sequence[tuple[str, Explanation]] = (),
    title: str | None = None,
    command: str | None = None,
) -> Path:
    """See `Bottleneck.save_page`."""
    label = bottleneck.label_set
    page = Page(title or f"{label[:1].upper()}{label[1:]} from named concepts", f"{bottleneck.count} concepts")
    page.add(*bottleneck_blocks(bottleneck, examples))
    page.heading("Make it again")
    if command:
        page.add(blocks.code(command))
    versions = ", ".join(f"{name} {version}" for name, version in versions_of("torch", "numpy", "sae-lens").items())
    return (
        page.add(blocks.facts({"features of the SAE": f"{bottleneck.width:,}", "versions": versions}))
        .write(path)
        .resolve()
    )


def _tiles(bottleneck: Bottleneck, metric: str) -> list[dict[str, str]]:
    """The concepts beside what they have to be better than, and beside the dense probe."""
    shown = {
        SOURCES[CONCEPTS]: bottleneck.estimates[CONCEPTS, bottleneck.count],
        SOURCES["random"]: bottleneck.estimates.get(("random", bottleneck.count)),
        SOURCES["dense"]: bottleneck.estimates.get(("dense", 0)),
        SOURCES["majority"]: bottleneck.estimates.get(("majority", 0)),
    }
    tiles = []
    for name, estimates in shown.items():
        if estimates is None:
            continue
        (value,), (low,), (high,) = estimates[metric].value, *estimates[metric].interval()
        detail = f"{wording.metric_name(metric)}, {low:.3f} to {high:.3f}"
        tiles.append({"name": name[:1].upper() + name[1:], "value": f"{value:.3f}", "detail": detail})
    return tiles


def _concepts(bottleneck: Bottleneck, class_: str) -> pd.DataFrame:
    frame = bottleneck.concepts(class_).drop(columns="class")
    return frame.assign(feature=frame.feature.astype(str), fires=[f"{share:.1%}" for share in frame.fires])


def _taken_apart(explanation: Explanation) -> pd.DataFrame:
    frame = explanation.to_frame()
    return frame.assign(feature=frame.feature.astype(str))


def _outcome(explanation: Explanation) -> str:
    said = ", ".join(f"{class_} {share:.2f}" for class_, share in explanation.probability.items())
    return (
        f"Predicted: {explanation.class_} (probabilities: {said}). Its score is {explanation.logit:+.3f}, of which "
        f"{explanation.intercept:+.3f} are there without any concept."
    )


def _figures(bottleneck: Bottleneck) -> pd.DataFrame:
    """Every source by every metric, with intervals."""
    import pandas as pd

    columns: dict[str, list[str]] = {}
    for metric in next(iter(bottleneck.estimates.values())):
        frame = bottleneck.to_frame(metric)
        columns[wording.metric_name(metric)] = [
            f"{r[metric]:.3f} ({r.low:.3f} to {r.high:.3f})" for _, r in frame.iterrows()
        ]
    counts = ["–" if pd.isna(count) else str(count) for count in frame.concepts]
    return pd.DataFrame({"": [SOURCES[source] for source in frame.source], "concepts": counts, **columns})
