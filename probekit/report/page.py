"""The page of a sweep: what was asked, the answer, the numbers and pictures behind it, and how to make it again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.report import blocks, figures, matrices, wording
from probekit.report.blocks import Block, Page
from probekit.report.boards import sweep_boards
from probekit.report.scores import Score, Scores

if TYPE_CHECKING:
    import pandas as pd

    from probekit.probes.result import SweepResult

COMPARED = (
    "majority",
    "shuffled",
    "random_weights",
    "surface",
)  # what a finding must beat; the control task is read as selectivity


def write_sweep_page(
    result: SweepResult,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    extra_blocks: Sequence[Block] = (),
    command: str | None = None,
) -> Path:
    """Write the page of a sweep: one self-contained HTML file that opens without a network.

    Args:
        result: A finished sweep.
        path: The file to write; a folder gets `index.html`.
        title: Title of the page; the sweep's own unless given.
        extra_blocks: Further blocks (`probekit.report.blocks`, `boards.game_beliefs`), put before the notes (under a heading).
        command: The command line that makes the page again, with a button to copy it; the manifest's unless given.

    Returns:
        The path of the file.
    """
    return sweep_page(result, title=title, extra_blocks=extra_blocks, command=command).write(path)


def sweep_page(
    result: SweepResult, *, title: str | None = None, extra_blocks: Sequence[Block] = (), command: str | None = None
) -> Page:
    """The page that `write_sweep_page` writes, to add blocks to."""
    scores = Scores.of(result)
    own = str(result.manifest.get("title") or "Where is it readable?")
    page = Page(title or own[:1].upper() + own[1:], own if title and title != own else "")
    page.heading("What was asked").text(question(scores))
    page.heading("The answer").add(_tiles(scores), *(blocks.text(answer(scores, name)) for name in scores.label_sets))
    common = _common_metric(scores)
    if len(scores.label_sets) > 1 and common:
        page.heading("All label sets").figure(
            matrices.plot_heatmap(scores, metric=common),
            f"Test {wording.metric_name(common)} of each label set at each layer.",
        )
    for name in scores.label_sets:
        page.add(*_label_section(scores, name))
    if extra_blocks and extra_blocks[0].macro != "heading":
        page.heading("A closer look")
    page.add(*extra_blocks)
    page.heading("Notes").add(blocks.notes(result.notes, empty="Nothing was dropped, cut or subsampled."))
    meanings = {wording.source_name(source): meaning for source, meaning in wording.SOURCE_MEANINGS.items()}
    page.add(blocks.details("What the probe is compared with", blocks.facts(meanings)))
    return page.add(*_make_again(result, command))


def _common_metric(scores: Scores) -> str | None:
    """The headline of all label sets; AUROC where classes are balanced in some and not in others."""
    headlines = {scores.metric(name) for name in scores.label_sets}
    if len(headlines) == 1:
        return headlines.pop()
    return "auroc" if headlines == {"accuracy", "auroc"} else None


def question(result: SweepResult | Scores) -> str:
    """What a sweep asked, in plain text."""
    scores = Scores.of(result)
    manifest = scores.result.manifest
    model, family = _name(manifest.get("model")), manifest.get("arguments", {}).get("probe", "")
    family = wording.PROBES.get(family, "linear")
    parts = []
    for name in scores.label_sets:
        count = len(scores.targets(name))
        parts.append(f"“{wording.shorten(name, 60)}”" + (f" ({count} targets)" if count > 1 else ""))
    number = len(scores.sites())
    return (
        f"At which layers can a {family} probe read {wording.join_words(parts)} from the activations"
        f"{f' of {model}' if model else ''}? Probes were trained at {number} site{'s' * (number > 1)}. Their "
        "settings and the best layer were chosen on validation items; every score is on test items that no choice has "
        f"seen, and has a 95{wording.SPACE}% interval"
        + (
            ", beside its controls."
            if manifest.get("arguments", {}).get("controls", True)
            else ". No controls were fitted."
        )
    )


def answer(result: SweepResult | Scores, name: str) -> str:
    """What a sweep found about a label set, in a few sentences of plain text."""
    scores = Scores.of(result)
    best = scores.best(name)
    interval = wording.format_interval(best.low, best.high, best.metric)
    words = f"“{wording.shorten(name, 60)}” is read best {wording.site_name(best.site)}: "
    words += f"{wording.metric_name(best.metric)} {wording.format_score(best.value, best.metric)}"
    words += f" (95{wording.SPACE}% interval {interval})." if interval else "."
    majority = scores.result.label_set(name).majority
    if best.metric == "auroc" and majority is not None:
        words += (
            f" AUROC is given because one class makes up {wording.format_score(majority, 'accuracy')} of the training "
        )
        words += "labels, so that a constant guess would be that accurate."
    tied = [site for site in best.tied if site != best.site]
    if tied:
        words += f" {_tied_words(tied, len(scores.sites(name)))} cannot be told apart from it."
    words += _compared_words(scores, best, name)
    plain = "r2" if best.metric in ("r2", "spearman") else "accuracy"  # what selectivity is a difference of
    control = scores.at(name, plain, "control_task", best.site)
    selectivity = scores.at(name, "selectivity", "model", best.site)
    if control is not None:
        words += f" Random labels (the control task) are learned to {wording.format_score(control.value, plain)}"
        words += " accuracy" if plain != best.metric else ""
        words += f", a selectivity of {wording.format_difference(selectivity.value, plain)}." if selectivity else "."
    if selectivity is not None and not selectivity.low > 0:
        words += " So the probe learns random labels as well as these, and its score alone says little."
    return words


def _compared_words(scores: Scores, best: Any, name: str) -> str:
    """Which controls the best layer beats: its interval and theirs do not touch."""
    controls = {source: scores.at(name, best.metric, source, best.site) for source in COMPARED}
    present = {source: score for source, score in controls.items() if score is not None and not np.isnan(score.value)}
    up = wording.higher_is_better(best.metric)
    here = Score(best.value, best.low, best.high)
    beaten = [source for source, score in present.items() if _apart(here, score, up)]
    matched = [source for source in present if source not in beaten]

    def listed(sources: Sequence[str]) -> str:
        each = [
            f"{wording.source_name(s, best.metric)} ({wording.format_score(present[s].value, best.metric)})"
            for s in sources
        ]
        return wording.join_words(each)

    words = ""
    if beaten:
        everything = "all that it must beat: " if len(beaten) > 1 and not matched else ""
        words += f" That is {'above' if up else 'below'} {everything}{listed(beaten)}."
    if matched:
        words += f" It is not clearly better than {listed(matched)}, "
        words += "so this score alone does not show that the model has learned it."
    return words


def _apart(better: Score, worse: Score, up: bool) -> bool:
    """Whether one interval lies wholly on the good side of the other; a value without an interval is its own."""
    (low, high), (other_low, other_high) = (
        (s.value if np.isnan(s.low) else s.low, s.value if np.isnan(s.high) else s.high) for s in (better, worse)
    )
    return low > other_high if up else high < other_low


def _tied_words(tied: Sequence[str], number: int) -> str:
    if len(tied) == number - 1 and number > 2:
        return "The scores of all other layers"
    if len(tied) > 6:
        ends = f"the first {wording.site_name(tied[0])}, the last {wording.site_name(tied[-1])}"
        return f"The scores of {len(tied)} other layers, {ends},"
    return f"The score{'s' * (len(tied) > 1)} {wording.site_names(tied)}"


def _name(value: Any) -> str:
    return str(value.get("name", "")) if isinstance(value, Mapping) else value if isinstance(value, str) else ""


def _anchor(name: str) -> str:
    return blocks.anchor(f"label set {name}")  # a label set may be called "Notes"


def _tiles(scores: Scores) -> Block:
    items = []
    for name in scores.label_sets:
        best = scores.best(name)
        interval = wording.format_interval(best.low, best.high, best.metric)
        items.append(
            {
                "name": wording.shorten(name, 60),
                "value": wording.format_score(best.value, best.metric),
                "href": f"#{_anchor(name)}",
                "detail": "\n".join(
                    [
                        f"{wording.metric_name(best.metric)} {wording.site_name(best.site)}",
                        *([interval] if interval else []),
                    ]
                ),
            }
        )
    return blocks.tiles(items)


def _label_section(scores: Scores, name: str) -> list[Block]:
    best = scores.best(name)
    out = [
        blocks.heading(name, at=_anchor(name)),
        blocks.text(_kind_words(scores.result.label_set(name))),
        blocks.heading("By layer", 3),
    ]
    out.append(
        _tabs(
            {wording.metric_name(metric): _by_layer(scores, name, metric, best.site) for metric in scores.metrics(name)}
        )
    )
    others = [data for data in scores.data(name) if data != "test"]
    if others:
        together = blocks.figure(
            figures.plot_transfer(scores, name),
            "The same probes on data they were not trained on; nothing is fitted again.",
        )
        each = {data: _by_layer(scores, name, best.metric, best.site, data) for data in others}
        out += [
            blocks.heading("On other data", 3),
            _tabs({"all together": together} | {wording.shorten(d, 40): b for d, b in each.items()}),
        ]
    return out + _target_blocks(scores, name, best) + _best_layer_blocks(scores.result, name, best.site)


def _kind_words(summary: Any) -> str:
    """What kind of label set this is, on how many rows, and why."""
    what = f"{summary.kind}, one label a {summary.level}"
    if summary.classes:
        shown = [wording.shorten(c, 40) for c in summary.classes[:12]]
        what += f": {', '.join(shown)}{' and more' if len(summary.classes) > 12 else ''}"
    parts = {"train": "training", "valid": "validation"}
    rows = ", ".join(
        f"{wording.format_count(count)} {parts.get(part, wording.shorten(part, 40))}"
        for part, count in summary.rows.items()
    )
    words = f"{what[0].upper()}{what[1:]}{f' ({summary.reason})' if summary.reason else ''}. Rows: {rows}."
    return words + (
        f" A type of the control task is {summary.control_task}."
        if summary.control_task and "not available" not in summary.control_task
        else ""
    )


def _tabs(named: Mapping[str, Block]) -> Block:
    return blocks.tabs(named) if len(named) > 1 else next(iter(named.values()))


def _by_layer(scores: Scores, name: str, metric: str, best_site: str, data: str = "test") -> Block:
    """The picture and the numbers in it."""
    unit = ", in %" if wording.is_percent(metric) else ""
    strong = [i for i, site in enumerate(scores.sites(name)) if site == best_site]
    return blocks.columns(
        blocks.figure(figures.plot_sweep(scores, metric, names=[name], data=data)),
        blocks.table(
            score_table(scores, name, metric, data),
            f"{wording.metric_name(metric)}{unit}; the best layer by validation is marked.".capitalize(),
            strong=strong,
        ),
    )


def _target_blocks(scores: Scores, name: str, best: Any) -> list[Block]:
    """What is told target by target: boards where the targets are squares, and the heat map."""
    if len(scores.targets(name)) < 2:
        return []
    said = wording.metric_name(best.metric)
    heat = blocks.figure(
        matrices.plot_heatmap(scores, name), f"{said[0].upper()}{said[1:]} of each target at each layer."
    )
    boards = sweep_boards(scores, name, best.metric, best.site)
    if boards is None:
        return [blocks.heading("By target", 3), heat]
    return [blocks.heading("Square by square", 3), boards, blocks.heading("Squares by layers", 3), heat]


def _best_layer_blocks(result: SweepResult, name: str, site: str) -> list[Block]:
    """Confusion and calibration at the best layer, where the result has them."""
    made = []
    counts, classes = _confusion(result.confusion(name))
    if classes:
        made.append(
            blocks.figure(
                matrices.plot_confusion(counts, classes), "What is taken for what; each row adds up to 100 %."
            )
        )
    bins = result.calibration(name)
    bins = bins[bins.data == "test"]
    if len(bins):
        words = (
            "How often the probe is right when it is this sure: below the dotted line it is too sure of itself. "
            "The bars show how often it is that sure."
        )
        made.append(blocks.figure(matrices.plot_calibration(bins.confidence, bins.accuracy, bins.n), words))
    return [blocks.heading(f"Right and wrong {wording.site_name(site)}", 3), blocks.columns(*made)] if made else []


def _confusion(rows: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """`[true, predicted]` counts of the test items, all targets together, and the classes."""
    rows = rows[(rows.data == "test") & (rows.target == "mean")]
    classes = list(dict.fromkeys(rows.true))
    return rows.n.to_numpy(int).reshape(len(classes), len(classes)), [str(c) for c in classes]


def score_table(result: SweepResult | Scores, name: str, metric: str, data: str = "test") -> pd.DataFrame:
    """The numbers of a figure as text: a row a layer, the probe with its interval, then every control."""
    import pandas as pd

    scores = Scores.of(result)
    places = scores.sites(name)
    lines = {source: scores.line(name, metric, source, data) for source in wording.SOURCES}
    table: dict[str, list[str]] = {wording.axis_title(places): wording.site_ticks(places)}
    for source, line in lines.items():
        if line is not None:
            table[wording.source_name(source, metric)] = [wording.format_number(s.value, metric) for s in line]
            if source == "model":
                table["95 % interval"] = [wording.format_interval(s.low, s.high, metric, unit=False) for s in line]
    return pd.DataFrame(table)


def _make_again(result: SweepResult, command: str | None) -> list[Block]:
    manifest = dict(result.manifest)
    out = [blocks.heading("Make it again")]
    command = command or str(manifest.get("command") or "")
    if command:
        out.append(blocks.code(command))
    facts: dict[str, Any] = {
        k: v for k, v in manifest.items() if isinstance(v, (str, int, float)) and k not in ("title", "command")
    }
    for part in ("model", "data"):
        if isinstance(manifest.get(part), Mapping):
            facts[part] = ", ".join(f"{k} {v}" for k, v in manifest[part].items() if isinstance(v, (str, int, float)))
    if isinstance(manifest.get("versions"), Mapping):
        facts["versions"] = ", ".join(f"{k} {v}" for k, v in manifest["versions"].items())
    if facts:
        out.append(blocks.facts(facts))
    whole = json.dumps(manifest, indent=2, default=str, ensure_ascii=False)
    return [*out, blocks.details("The whole manifest", blocks.code(whole))]
