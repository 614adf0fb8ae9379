"""The page of a sweep: what was asked, the answer, the numbers and pictures behind it, and how to make it again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.report import blocks, figures, wording
from probekit.report.blocks import Block, Page
from probekit.report.boards import sweep_boards

if TYPE_CHECKING:
    import pandas as pd

    from probekit.probes import SweepResult

COMPARED = ("majority", "shuffled", "random_weights", "surface")  # controls a finding must beat; the control task is read as selectivity


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
        title: Title of the page; says what was probed unless given.
        extra_blocks: Further blocks (`probekit.report.blocks`, `boards.game_beliefs`), put before the notes.
        command: The command line that makes the page again, shown with a button to copy it.

    Returns:
        The path of the file.
    """
    return sweep_page(result, title=title, extra_blocks=extra_blocks, command=command).write(path)


def sweep_page(
    result: SweepResult, *, title: str | None = None, extra_blocks: Sequence[Block] = (), command: str | None = None
) -> Page:
    """The page that `write_sweep_page` writes, to add blocks to."""
    frame = result.to_frame()
    names = figures.label_sets(frame)
    page = Page(title or f"Where is {wording.join_words([wording.shorten(n, 40) for n in names[:4]])} readable?", _subtitle(result.manifest))
    page.add(*_question(result, frame, names))
    page.add(blocks.heading("The answer"), _tiles(result, frame, names), *(blocks.text(answer(result, n), strong=True) for n in names))
    if len(names) > 1 and len({figures.metrics(frame, n)[0] for n in names}) == 1:
        page.heading("All label sets").figure(figures.plot_heatmap(result), "Test score of each label set at each layer.")
    for name in names:
        page.add(*_label_section(result, frame, name))
    page.add(*extra_blocks)
    page.heading("Notes").add(blocks.notes(result.notes, empty="Nothing was dropped, cut or subsampled."))
    page.add(blocks.details("What the controls mean", blocks.facts({wording.source_name(s): m for s, m in wording.SOURCE_MEANINGS.items()})))
    return page.add(*_make_again(result, command))


def answer(result: SweepResult, name: str) -> str:
    """What a sweep found about a label set, in two or three sentences of plain text."""
    frame, best = result.to_frame(), result.best(name)
    metric = figures.metrics(frame, name)[0]
    said = wording.metric_name(metric)
    words = (
        f"{name} is read best {wording.site_name(best.site)}: {said} {wording.format_score(best.value, metric)} on held-out items"
        f"{_interval_words(best.low, best.high, metric)}."
    )
    tied = [s for s in best.tied if s != best.site]
    if tied:
        words += f" {_tied_words(tied)} cannot be told apart from it."
    controls = {s: _at(frame, name, metric, s, best.site) for s in COMPARED}
    present = {s: row for s, row in controls.items() if row is not None}
    up = wording.higher_is_better(metric)
    beaten = [s for s, row in present.items() if _clear(best, row, up)]
    matched = [s for s in present if s not in beaten]

    def listed(sources: Sequence[str]) -> str:
        return wording.join_words([f"{wording.source_name(s, metric)} ({wording.format_score(present[s]['value'], metric)})" for s in sources])

    if beaten:
        words += f" That is above {'every control: ' if not matched and len(beaten) > 1 else ''}{listed(beaten)}."
    if matched:
        words += f" It is not clearly above {listed(matched)}, so this alone does not show that the model learned it."
    control, selectivity = _at(frame, name, metric, "control_task", best.site), _at(frame, name, "selectivity", "model", best.site)
    if control is not None:
        words += f" The control task reaches {wording.format_score(control['value'], metric)}"
        words += f", a selectivity of {_points(selectivity['value'])}." if selectivity is not None else "."
    return words


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _clear(best: Any, control: Mapping[str, float], up: bool) -> bool:
    """Whether the best layer's interval lies wholly on the good side of the control's."""
    low = best.low if not np.isnan(best.low) else best.value
    high = best.high if not np.isnan(best.high) else best.value
    other_low = control["low"] if not np.isnan(control["low"]) else control["value"]
    other_high = control["high"] if not np.isnan(control["high"]) else control["value"]
    return bool(low > other_high if up else high < other_low)


def _tied_words(tied: Sequence[str]) -> str:
    if len(tied) > 4:
        return f"{len(tied)} other layers ({wording.site_name(tied[0])} to {wording.site_name(tied[-1])})"
    words = wording.join_words([wording.site_name(s) for s in tied])
    return words[0].upper() + words[1:]


def _interval_words(low: float, high: float, metric: str) -> str:
    interval = wording.format_interval(low, high, metric)
    return f" (95 % interval {interval})" if interval else ""


def _at(frame: pd.DataFrame, name: str, metric: str, source: str, site: str) -> dict[str, float] | None:
    """Value, interval and n of a source at a site; of the only row for a source that knows no layer."""
    rows = figures.scores(frame, name, metric, source)
    here = rows[rows.site == site]
    if here.empty and not set(rows.site) & set(figures.sites(frame, name)):
        here = rows
    return None if here.empty else {k: float(here.iloc[0][k]) for k in ("value", "low", "high", "n")}


def _subtitle(manifest: Mapping[str, Any]) -> str:
    model, data = _name(manifest.get("model")), _name(manifest.get("data") or manifest.get("dataset"))
    return " · ".join([*([f"model {model}"] if model else []), *([f"data {data}"] if data else [])])


def _name(value: Any) -> str:
    return str(value.get("name", "")) if isinstance(value, Mapping) else value if isinstance(value, str) else ""


def _question(result: SweepResult, frame: pd.DataFrame, names: Sequence[str]) -> list[Block]:
    places = figures.sites(frame)
    model = _name(result.manifest.get("model"))
    parts = []
    for name in names:
        targets = [t for t in dict.fromkeys(frame.loc[(frame.label_set == name) & (frame.source == "model"), "target"]) if t != "mean"]
        parts.append(f"{wording.shorten(name, 60)} ({len(targets)} targets)" if len(targets) > 1 else wording.shorten(name, 60))
    probe = _name(result.manifest.get("probe"))
    words = (
        f"At which layers can a {f'{probe} ' if probe else 'linear '}probe read {wording.join_words(parts)} from the activations"
        f"{f' of {model}' if model else ''}? Probes were trained at {len(places)} {'sites' if len(places) > 1 else 'site'}, chosen on "
        "validation items and scored on test items they never saw. Every score has a 95 % interval and stands beside its controls."
    )
    return [blocks.heading("What was asked"), blocks.text(words)]


def _tiles(result: SweepResult, frame: pd.DataFrame, names: Sequence[str]) -> Block:
    items = []
    for name in names:
        best, metric = result.best(name), figures.metrics(frame, name)[0]
        detail = f"{wording.metric_name(metric)} {wording.site_name(best.site)}"
        interval = wording.format_interval(best.low, best.high, metric)
        items.append({
            "name": wording.shorten(name, 60), "value": wording.format_score(best.value, metric),
            "detail": f"{detail}, {interval}" if interval else detail, "href": f"#{blocks.anchor(name)}",
        })  # fmt: skip
    return blocks.tiles(items)


def _label_section(result: SweepResult, frame: pd.DataFrame, name: str) -> list[Block]:
    metrics = figures.metrics(frame, name)
    best = result.best(name)
    layers = {
        wording.metric_name(m): blocks.columns(
            blocks.figure(figures.plot_sweep(result, m, names=[name])),
            blocks.table(score_table(frame, name, m), strong=[figures.sites(frame, name).index(best.site)]),
        )
        for m in metrics
    }  # fmt: skip
    out = [blocks.heading(name), blocks.heading("By layer", 3), blocks.tabs(layers) if len(layers) > 1 else next(iter(layers.values()))]
    if len(set(frame.loc[(frame.label_set == name) & (frame.source == "model"), "data"])) > 1:
        out += [blocks.heading("On other data", 3), blocks.figure(
            figures.plot_transfer(result, name), "The same probes on data they were not trained on; nothing is fitted again.")]  # fmt: skip
    out += _target_blocks(result, frame, name, metrics[0], best.site)
    return out + _best_layer_blocks(result, name, best.site)


def _target_blocks(result: SweepResult, frame: pd.DataFrame, name: str, metric: str, best_site: str) -> list[Block]:
    """What is told target by target: boards where the targets are squares, and the heat map."""
    rows = frame[(frame.label_set == name) & (frame.metric == metric) & (frame.source == "model") & (frame.data == "test")]
    if len(set(rows.target) - {"mean"}) < 2:
        return []
    heat = blocks.figure(figures.plot_heatmap(result, name), f"{wording.metric_name(metric).capitalize()} of each target at each layer.")
    boards = sweep_boards(frame, name, metric, best_site)
    if boards is None:
        return [blocks.heading("By target", 3), heat]
    return [blocks.heading("Square by square", 3), boards, blocks.details("The same as a table of squares and layers", heat)]


def _best_layer_blocks(result: SweepResult, name: str, site: str) -> list[Block]:
    """Confusion and calibration at the best layer, where the result has them."""
    made = []
    confusion, calibration = result.confusion(name), result.calibration(name)
    if confusion is not None and len(confusion):
        counts, classes = _counts(confusion)
        made.append(blocks.figure(figures.plot_confusion(counts, classes), "Which class is taken for which."))
    if calibration is not None and len(calibration):
        rows = calibration[calibration.data == "test"]
        made.append(blocks.figure(
            figures.plot_calibration(rows.confidence, rows.accuracy, rows.n),
            "How often the probe is right when it is this sure. Below the dotted line it is too sure of itself. "
            "The bars show how often it is that sure.",
        ))  # fmt: skip
    return [blocks.heading(f"What it gets wrong {wording.site_name(site)}", 3), blocks.columns(*made)] if made else []


def _counts(confusion: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """`[true, predicted]` counts of the test items, all targets together."""
    rows = confusion[confusion.data == "test"]
    if "target" in rows and (rows.target == "mean").any():
        rows = rows[rows.target == "mean"]
    classes = list(dict.fromkeys([*rows.true, *rows.predicted]))
    counts = np.zeros((len(classes), len(classes)), np.int64)
    index = {c: i for i, c in enumerate(classes)}
    for true, predicted, n in zip(rows.true, rows.predicted, rows.n, strict=True):
        counts[index[true], index[predicted]] += int(n)
    return counts, [str(c) for c in classes]


def score_table(frame: pd.DataFrame, name: str, metric: str) -> pd.DataFrame:
    """The numbers of a figure: a row a layer, the probe with its interval, then every control."""
    import pandas as pd

    places = figures.sites(frame, name)
    sources = [s for s in wording.SOURCES if s != "model" and not figures.scores(frame, name, metric, s).empty]
    rows = []
    for site in places:
        model = _at(frame, name, metric, "model", site)
        row = {
            "layer": wording.site_name(site).removeprefix("at the ").removeprefix("at "),
            "probe": wording.format_score(model["value"], metric) if model else "–",
            "95 % interval": wording.format_interval(model["low"], model["high"], metric) if model else "",
        }
        for source in sources:
            at = _at(frame, name, metric, source, site)
            row[wording.source_name(source, metric).removesuffix(" (no model)")] = wording.format_score(at["value"], metric) if at else "–"
        row["items"] = wording.format_count(model["n"]) if model else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def _make_again(result: SweepResult, command: str | None) -> list[Block]:
    manifest = dict(result.manifest)
    out = [blocks.heading("Make it again")]
    command = command or (manifest.get("command") if isinstance(manifest.get("command"), str) else None)
    if command:
        out.append(blocks.code(command))
    short = {k: v for k, v in manifest.items() if isinstance(v, (str, int, float, bool)) and len(str(v)) <= 120}
    if short:
        out.append(blocks.facts(short))
    whole = json.dumps(manifest, indent=2, default=str, ensure_ascii=False)
    return [*out, blocks.details("The whole manifest", blocks.code(whole))]
