"""Plain words and number formats for sites, metrics, controls and scores, the same in every figure and table."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

SPACE = "\u00a0"  # keeps a number and its unit on one line

SOURCES = {
    "model": "probe",
    "majority": "majority class",
    "shuffled": "shuffled labels",
    "control_task": "control task",
    "random_weights": "random weights",
    "surface": "surface",
}

SOURCE_MEANINGS = {
    "model": "a probe trained on this model's activations, read on items it never saw",
    "majority": "always say the most common answer",
    "shuffled": "the same probe trained on shuffled labels: what it scores when there is nothing to find",
    "control_task": "the same probe on random labels given to each word type or input (Hewitt & Liang 2019): what it "
    "can learn by heart. Accuracy minus this is the selectivity",
    "random_weights": "the same probe on the same architecture with random weights: what is readable without training",
    "surface": "a classifier that sees the input only (n-grams of words and characters, or tokens), never the model",
}

PROBES = {
    "logistic": "logistic",
    "ridge": "ridge",
    "lda": "linear-discriminant",
    "difference_in_means": "difference-in-means",
}

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "recall_at_1pct": "recall at 1 % false alarms",
    "false_alarm_rate": "false alarms at that threshold",
    "log_loss": "log-loss",
    "calibration_error": "calibration error",
    "r2": "R²",
    "spearman": "Spearman ρ",
    "selectivity": "selectivity",
}

_LOWER_IS_BETTER = {"log_loss", "calibration_error", "false_alarm_rate"}
_PERCENT = {"accuracy", "balanced_accuracy", "recall_at_1pct", "false_alarm_rate", "selectivity"}
_STREAM = re.compile(r"^blocks\.(\d+)\.hook_resid_post$")
_HYPHEN = re.compile(r"(?<![\w.\-])-(?=\.?\d)")
_POWER = re.compile(r"(?<=\d)e([+-])0*(\d+)\b")
_SMALL = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BLOCK_SITE = re.compile(r"^blocks\.(\d+)\.(?:attn\.|mlp\.)?hook_(\w+)$")
_SITE_PARTS = {
    "resid_pre": "in",
    "resid_mid": "mid",
    "resid_post": "out",
    "attn_out": "attn",
    "mlp_out": "mlp",
    "z": "heads",
    "post": "neurons",
}


def metric_name(metric: str) -> str:
    """`"recall_at_1pct"` -> `"recall at 1 % false alarms"`; names not known are given with spaces."""
    return METRICS.get(metric, metric.replace("_", " "))


def source_name(source: str, metric: str = "") -> str:
    """A source of scores in words; the constant guess for a continuous label is a mean, not a class."""
    if source == "majority" and metric in ("r2", "spearman"):
        return "constant guess"
    return SOURCES.get(source, source.replace("_", " "))


def higher_is_better(metric: str) -> bool:
    return metric not in _LOWER_IS_BETTER


def is_percent(metric: str) -> bool:
    """Whether scores of this metric read best as percentages."""
    return metric in _PERCENT


def site_name(site: str) -> str:
    """A site in a sentence: `blocks.3.hook_resid_post` -> `after block 3`. Blocks count from 0, as in its name."""
    if site in ("blocks.0.hook_resid_pre", "hook_embed"):
        return "at the embedding"
    if match := _STREAM.match(site):
        return f"after block {match[1]}"
    return f"at {site}"


def site_names(sites: Sequence[str]) -> str:
    """Sites in a sentence: `after blocks 3, 4 and 6`."""
    numbers = [match[1] for site in sites if (match := _STREAM.match(site))]
    others = [site_name(site) for site in sites if not _STREAM.match(site)]
    return join_words([*others, *([f"after block{'s' * (len(numbers) > 1)} {join_words(numbers)}"] if numbers else [])])


def site_ticks(sites: Sequence[str]) -> list[str]:
    """Short axis labels for sites, all different: `emb 0 1 2 ...` when they are stream sites, `3 attn` otherwise."""
    stream = all(_STREAM.match(s) or s in ("blocks.0.hook_resid_pre", "hook_embed") for s in sites)
    ticks = [_site_tick(s, stream) for s in sites]
    return ticks if len(set(ticks)) == len(ticks) else list(sites)


def _site_tick(site: str, stream: bool) -> str:
    if site in ("blocks.0.hook_resid_pre", "hook_embed"):
        return "emb"
    if stream and (match := _STREAM.match(site)):
        return match[1]
    if match := _BLOCK_SITE.match(site):
        part = "heads" if site.endswith("attn.hook_z") else _SITE_PARTS.get(match[2], match[2])
        return f"{match[1]} {part}"
    return "final norm" if site == "ln_final.hook_normalized" else shorten(site, 18)


def axis_title(sites: Sequence[str]) -> str:
    return "after block" if all(tick == "emb" or tick.isdigit() for tick in site_ticks(sites)) else "site"


def format_number(value: float, metric: str) -> str:
    """`0.9312` -> `93.1` (the unit left out) or `0.931`, as the metric is read; `–` for NaN."""
    if math.isnan(value):
        return "–"
    return f"{100 * value if is_percent(metric) else value:{'.1f' if is_percent(metric) else '.3f'}}".replace("-", "−")


def format_score(value: float, metric: str) -> str:
    """`format_number` with its unit: `93.1 %`."""
    return format_number(value, metric) + (f"{SPACE}%" if is_percent(metric) and not math.isnan(value) else "")


def format_difference(value: float, metric: str) -> str:
    """A difference of two scores: `41.2 points` of percent, or `0.412`."""
    return format_number(value, metric) + (f"{SPACE}points" if is_percent(metric) else "")


def format_interval(low: float, high: float, metric: str, *, unit: bool = True) -> str:
    """`93.0–94.1 %`; empty where there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return ""
    between = " to " if low < 0 else "–"
    return f"{format_number(low, metric)}{between}{format_number(high, metric)}" + (
        f"{SPACE}%" if unit and is_percent(metric) else ""
    )


def format_count(n: float) -> str:
    """`12345` -> `12,345`."""
    return "–" if math.isnan(n) else f"{int(n):,}"


def with_minus(text: str) -> str:
    """Numbers in a text as they are typeset: `-0.5` -> `−0.5`, `3e-05` -> `3 × 10⁻⁵`; hyphens within words stay."""
    powers = _POWER.sub(
        lambda found: f"{SPACE}×{SPACE}10{(found[1].strip('+') + found[2]).translate(_SMALL)}", str(text)
    )
    return _HYPHEN.sub("−", powers)


def join_words(words: Sequence[str], conjunction: str = "and") -> str:
    """`["a", "b", "c"]` -> `a, b and c`."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}" if words else ""


def shorten(text: str, width: int) -> str:
    """At most `width` characters, the middle cut out, so that names that end differently stay different."""
    text = " ".join(str(text).split())
    if len(text) <= width:
        return text
    head = (width - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def plain(text: object, width: int = 80) -> str:
    """Text from data made safe for plotly, which reads a few HTML tags and entities in its labels."""
    return html.escape(shorten(str(text), width), quote=False)
