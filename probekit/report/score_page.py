"""The page of scored texts: tokens coloured by probability, alarms, which texts are at home, and how far to believe it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit.report import blocks, style, wording
from probekit.report.blocks import Block, Page
from probekit.report.matrices import plot_calibration

if TYPE_CHECKING:
    from probekit.monitoring.false_alarms import Rate
    from probekit.monitoring.monitor import Monitor
    from probekit.monitoring.scored import Scored

MOST = 2000
"""Texts on a page; a browser is slow with more."""

_READING = {
    "colour of a token": "The calibrated probability of its own score, from its activation alone. The calibration was fitted to whole texts: at a "
    "token it is a shade to look at, and no frequency.",
    "alarm": "The score of the whole text is over its threshold.",
    "alarm while streaming": "The score so far went over a threshold of its own (higher, because a text that is judged at each of its tokens has "
    "many chances to raise a false alarm). Underlined tokens are over it; a bar stands before the first.",
    "at home": "p-values: how many of the held-out texts that the monitor was fitted to are as far from their mean, from their nearest neighbours, or "
    "by both together. A text is out of domain at 0.05 or less; its probability then says little.",
}


def save_score_page(
    monitor: Monitor,
    scored: Iterable[Scored],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    command: str | None = None,
) -> Path:
    """See `Monitor.save_page`."""
    texts: list[dict[str, Any]] = []
    counts = {"texts": 0, "alarms": 0, "away": 0}
    for each in scored:  # one at a time: only what the page shows of them is kept
        counts["texts"] += 1
        counts["alarms"] += each.alarm
        counts["away"] += each.out_of_domain
        if len(texts) < MOST:
            texts.append(_data(each))
    return _page(monitor, texts, counts, title, command).write(path).resolve()


def _page(
    monitor: Monitor, texts: list[dict[str, Any]], counts: dict[str, int], title: str | None, command: str | None
) -> Page:
    n = counts["texts"]
    name = f"“{wording.shorten(monitor.classes[1], 60)}”"
    subject = f"{name} in {n:,} text{'s' * (n != 1)}" if n else f"A monitor of {name}"
    page = Page(title or subject, f"Read {wording.site_name(monitor.site)} of {monitor.model_name}, {_pool(monitor)}")
    if n:
        page.add(blocks.text(_answer(counts), strong=True))
    page.add(_tiles(monitor))
    if monitor.notes:
        page.add(blocks.notes(list(monitor.notes)))
    if n:
        page.heading("The texts")
        if n > len(texts):
            page.text(f"The first {len(texts):,} of {n:,}.")
        here = Path(__file__).parent
        script, sheet = ((here / f"score_page.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
        page.add(blocks.scripted({"texts": texts}, script, style=sheet, label="scored texts"))
        page.add(blocks.details("How to read it", blocks.facts(_READING)))
    page.heading("How far to believe it")
    page.add(_reliability(monitor))
    if monitor.evidence.controls:
        page.heading("Beside controls")
        page.add(_beside(monitor))
    if len(monitor.evidence.sites) > 1:
        page.heading("Where it reads")
        page.add(_places(monitor))
    page.heading("Make it again")
    if command:
        page.add(blocks.code(command))
    facts = {
        "model": f"{monitor.model_name} {monitor.fingerprint}",
        "site": monitor.site,
        "classes": ", ".join(monitor.classes),
    }
    return page.add(blocks.facts(facts | {str(k): v for k, v in monitor.manifest.items()}))


def _data(each: Scored) -> dict[str, Any]:
    return {
        "index": each.index,
        "probability": round(each.probability, 4),
        "alarm": each.alarm,
        "first": each.first_alarm,
        "away": each.out_of_domain,
        "cut": each.cut,
        "p": [round(p, 4) for p in (each.p_mahalanobis, each.p_neighbours, each.p_value)],
        "tokens": [
            [
                t.text,
                round(t.probability, 3),
                round(t.score, 3),
                None if math.isnan(t.so_far) else round(t.so_far, 3),
                t.alarm,
            ]
            for t in each.tokens
        ],
    }


def _answer(counts: dict[str, int]) -> str:
    n, alarms, away = counts["texts"], counts["alarms"], counts["away"]
    words = f"{alarms:,} of {n:,} text{'s' * (n != 1)} raise{'s' * (alarms == 1)} the alarm."
    if not away:
        return f"{words} All are like those the monitor was fitted to."
    return f"{words} {away:,} {'is' if away == 1 else 'are'} out of domain, where probabilities say little (5{wording.SPACE}% of texts that are at home are flagged, too)."


def _pool(monitor: Monitor) -> str:
    return {"last": "last token", "mean": "mean over tokens", "max": "highest of all tokens"}[monitor.pool]


def _tiles(monitor: Monitor) -> Block:
    found = monitor.evidence
    asked = f"{100 * found.asked:.3g}{wording.SPACE}% asked"
    return blocks.tiles(
        [
            {
                "name": "alarm above",
                "value": f"{100 * monitor.probability_at_threshold:.3g}{wording.SPACE}%",
                "detail": wording.with_minus(
                    f"log-odds {monitor.threshold:.3f} for whole texts\n{monitor.running_threshold:.3f} while streaming"
                ),
            },
            {"name": "false alarms", "value": _share(found.text.false_alarms), "detail": _rate(found.text.false_alarms, asked)},
            {"name": "recall", "value": _share(found.text.recall), "detail": _rate(found.text.recall)},
            {
                "name": "while streaming",
                "value": f"{_share(found.running.false_alarms)} / {_share(found.running.recall)}",
                "detail": f"false alarms / recall, anywhere in a text\n{_rate(found.running.false_alarms)}\n{_rate(found.running.recall)}",
            },
            {
                "name": "calibration error",
                "value": f"{found.after.error:.3f}",
                "detail": f"{found.before.error:.3f} before; {monitor.calibration}",
            },
            {"name": "AUROC", "value": "–" if math.isnan(found.auroc) else f"{found.auroc:.3f}", "detail": f"95{wording.SPACE}%: {found.auroc_low:.3f}–{found.auroc_high:.3f}\n{found.texts['report']:,} texts that had no part in it"},
        ]
    )  # fmt: skip


def _share(rate: Rate) -> str:
    return f"{100 * rate.value:.3g}{wording.SPACE}%" if rate.n else "–"


def _rate(rate: Rate, more: str = "") -> str:
    if not rate.n:
        return "no such texts"
    said = f"{rate.hits} of {rate.n}; 95{wording.SPACE}%: {100 * rate.low:.2g}–{100 * rate.high:.3g}{wording.SPACE}%"
    return f"{said}\n{more}" if more else said


def _reliability(monitor: Monitor) -> Block:
    found = monitor.evidence
    drawn = {}
    for name, reliability in (("calibrated", found.after), ("as the probe gives it", found.before)):
        figure = plot_calibration(reliability.confidence, reliability.accuracy, reliability.count)
        caption = (
            f"How sure, and how often right, on {found.texts['report']:,} texts that had no part in it. Calibration error "
            f"{reliability.error:.3f}, log-loss {reliability.log_loss:.3f}."
        )
        drawn[name] = blocks.figure(figure, caption)
    parts = found.texts
    used = f"{parts['fit']} + {parts['rank']} calibrated it and set the thresholds"
    if found.trained:
        used = (
            f"{parts['fit']} fitted the probe and chose its site, {parts['rank']} calibrated it and set the thresholds"
        )
    facts = {
        "texts": f"{used} ({found.negatives} of them without the class), {parts['report']} are reported on",
        "false alarms, whole texts": str(found.text.false_alarms),
        "misses, whole texts": str(found.text.recall.rest),
        "false alarms, while streaming": str(found.running.false_alarms),
        "misses, while streaming": str(found.running.recall.rest),
        "at home, but flagged": str(found.flagged),
    }  # fmt: skip
    return blocks.columns(blocks.tabs(drawn), blocks.facts({k: wording.with_minus(v) for k, v in facts.items()}))


def _beside(monitor: Monitor) -> Block:
    import pandas as pd

    found = monitor.evidence

    def row(name: str, auroc: tuple[float, float, float], false_alarms: float, recall: float) -> dict[str, str]:
        value, low, high = auroc
        return {
            "": name,
            "AUROC": f"{value:.3f} ({low:.3f}–{high:.3f})",
            "false alarms": f"{100 * false_alarms:.3g}{wording.SPACE}%",
            "misses": f"{100 * (1 - recall):.3g}{wording.SPACE}%",
        }

    own = row(
        "this monitor",
        (found.auroc, found.auroc_low, found.auroc_high),
        found.text.false_alarms.value,
        found.text.recall.value,
    )
    others = [
        row(f"{name}, {c.draws} draws" if c.draws > 1 else name, (c.auroc, c.low, c.high), c.false_alarms, c.recall)
        for name, c in found.controls.items()
    ]
    caption = (
        f"Whole texts, the same {found.texts['report']:,} for all, with thresholds set in the same way. In brackets the 95{wording.SPACE}% interval "
        "over texts; of several draws, the range of 95 % of them. Words alone: n-grams of words and letters, without the model."
    )
    return blocks.table(pd.DataFrame([own, *others]), caption, strong=[0])


def _places(monitor: Monitor) -> Block:
    import plotly.graph_objects as go

    sites, losses = list(monitor.evidence.sites), list(monitor.evidence.sites.values())
    color = style.SOURCE_STYLES["model"]["color"]
    ticks, at = style.site_ticks(sites), sites.index(monitor.site)
    figure = go.Figure(
        [
            go.Scatter(
                x=ticks, y=losses, mode="lines+markers", line={"color": color}, customdata=sites,
                hovertemplate="%{customdata}: %{y:.3f} nats<extra></extra>", name="held-out log-loss",
            ),
            go.Scatter(
                x=ticks[at : at + 1], y=losses[at : at + 1], mode="markers", hoverinfo="skip", name="chosen",
                marker={"size": 14, "symbol": "circle-open", "color": color, "line": {"width": 2}},
            ),
        ]
    )  # fmt: skip
    style.arrange(figure, height=320, showlegend=False)
    figure.update_xaxes(**style.site_axis(sites))
    figure.update_yaxes(title="held-out log-loss (nats)", rangemode="tozero")
    return blocks.figure(
        figure,
        "Log-loss of the best penalty at each site, over folds of the training part that were held out in turn. The circle is the site that is "
        "read: it has the least. Guessing the commoner class costs about 0.69 where both are as common.",
    )
