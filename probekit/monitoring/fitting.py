"""`fit`: a monitor from a fitted probe and texts that the probe has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.data import as_dataset
from probekit.models import Model
from probekit.monitoring.calibration import HOWS, Calibration
from probekit.monitoring.controls import Control
from probekit.monitoring.domain import LEVEL, Domain
from probekit.monitoring.evidence import Evidence
from probekit.monitoring.false_alarms import negatives_needed, threshold_for
from probekit.monitoring.held_out import positives, three_parts, together
from probekit.monitoring.monitor import Monitor
from probekit.monitoring.passages import Item, read_passages, tokens_digest
from probekit.monitoring.reading import read
from probekit.monitoring.readout import Asked, Readout, readout_of
from probekit.monitoring.running import POOLS, Running, peak
from probekit.probes.base import LinearProbe
from probekit.probes.result import SweepResult

if TYPE_CHECKING:
    from probekit.data import Dataset

_AT_ONCE = 256
WARM_UP = {"last": 0, "mean": 4, "max": 0}
"""A mean over one or two tokens swings widely, and the highest of those swings would set the threshold."""


def fit(
    probe: LinearProbe | SweepResult,
    model: Model,
    texts: Sequence[Item] | Dataset,
    labels: object,
    *,
    site: str | None = None,
    pool: str | None = None,
    false_alarms: float = 0.01,
    groups: object = None,
    seed: int = 0,
    label_set: str | None = None,
    target: int | str = 0,
    alarm_class: object = None,
    calibration: str | None = None,
    warm_up: int | None = None,
) -> Monitor:
    """Put a probe to use: calibrate it, set its thresholds, and measure what it does.

    The texts are divided into three, by group and with both classes in each. The first third is what the domain is measured from; the
    second is what new texts are ranked among; both calibrate and set the thresholds; the last third is reported on only.

    Args:
        probe: A fitted `LinearProbe` of two classes, or a `SweepResult`, of which the best site's probe is taken.
        model: The model whose activations the probe reads.
        texts: Texts (or token ids of each, or a `Dataset`) that the probe was not trained on, drawn as those that will be monitored.
        labels: `[text]` values of the probe's two classes; of a `Dataset`, the name of its label set will do.
        site: Where the probe reads, where it does not know (`site_`).
        pool: How token scores make a text's score: `last`, `mean` (over its own tokens) or `max`. Left out: what the sweep pooled,
            else `last`.
        false_alarms: The share of texts without the alarm class that may raise an alarm. It takes `1 / false_alarms - 1` of them.
        groups: `[text]` texts of one group (author, topic) stay in one part; those that are identical always do.
        seed: Of the division.
        label_set, target: Of a `SweepResult` with several.
        alarm_class: The class that raises the alarm; the probe's second unless named.
        calibration: `temperature` (default for `last` and `mean`), `platt` (for `max`, whose scores are shifted upwards) or `isotonic`.
        warm_up: Own tokens of a text before it may raise an alarm while it streams; 0, and 4 for `mean`, unless given.

    Raises:
        ValueError: a probe that is not of two classes, of another model or width; labels of one class or of others than the
            probe's; fewer than three texts of a class; an empty text.
        KeyError: a site, label set or class that does not exist.
    """
    _check_rate(false_alarms)
    asked = readout_of(probe, model, site, label_set, target, alarm_class)
    setting = setting_of(false_alarms, pool or asked.pool or "last", calibration, warm_up, seed, POOLS)
    notes = []
    if asked.pool not in (None, setting.pool):
        notes.append(f"the probe was trained on the {asked.pool} of a text and is used on the {setting.pool}")
    data = as_dataset(texts)  # type: ignore[arg-type]
    positive = positives(data.label_set(labels) if isinstance(labels, str) else labels, len(data), asked.classes)
    within = together(groups, data)
    part = three_parts(positive, within, seed)
    monitor = put_to_use(
        asked, model, data, positive, within, part, setting, set_by=(0, 1), grouped=groups is not None, notes=notes
    )
    for note in monitor.notes:
        warnings.warn(note, stacklevel=2)
    return monitor


@dataclass(frozen=True)
class Setting:
    """How a monitor is to be set; see `fit`."""

    false_alarms: float
    pool: str
    calibration: str
    warm_up: int
    seed: int


def setting_of(
    false_alarms: float, pool: str, calibration: str | None, warm_up: int | None, seed: int, pools: Sequence[str]
) -> Setting:
    """With the defaults filled in.

    Raises:
        ValueError: values out of range.
    """
    _check_rate(false_alarms)
    _one_of("pool", pool, pools)
    how = _one_of("calibration", calibration or ("platt" if pool == "max" else "temperature"), HOWS)
    wait = WARM_UP[pool] if warm_up is None else warm_up
    if wait < 0:
        raise ValueError(f"warm_up is a number of tokens, 0 or more; got {warm_up!r}")
    return Setting(false_alarms, pool, how, wait, seed)


def put_to_use(
    asked: Asked,
    model: Model,
    data: Dataset,
    positive: np.ndarray,
    groups: np.ndarray,
    part: np.ndarray,
    setting: Setting,
    *,
    set_by: Sequence[int],
    grouped: bool,
    notes: Sequence[str] = (),
    controls: Mapping[str, Control] | None = None,
    sites: Mapping[str, float] | None = None,
) -> Monitor:
    """Read all texts with a probe, and make a monitor of it.

    Args:
        positive, groups, part: `[text]`; the domain is measured from part 0, new texts are ranked among part 1, part 2 is reported on.
        set_by: Parts that calibrate and set the thresholds.
        controls, sites: For the evidence.
    """
    notes = list(notes)
    items: Sequence[Item] = data.texts if data.texts is not None else data.tokens or ()
    rows = _read_all(model, asked.readout, items, setting.pool, setting.warm_up)
    if rows.cut:
        notes.append(
            f"{rows.cut} of {len(data)} texts are longer than the {model.context} tokens {model.name} can read: cut"
        )
    sets, report = np.isin(part, set_by), part == 2
    quiet = sets & ~positive
    threshold, running, note = _thresholds(setting.false_alarms, rows, quiet, groups, asked.classes[1])
    notes += [note] if note else []
    curve = Calibration.fit(setting.calibration, rows.pooled[sets], positive[sets])
    among = part == 1
    domain = Domain.fit(rows.activations[part == 0], rows.activations[among], setting.seed, groups=groups[among])
    if domain.smallest > LEVEL:
        what = "texts" if domain.groups == among.sum() else "groups of texts"
        notes.append(f"{domain.groups} {what} to rank among are too few to flag any as out of domain at the 5 % level")
    evidence = Evidence.of(
        asked=setting.false_alarms,
        pooled=rows.pooled[report],
        peaks=rows.peaks[report],
        activations=rows.activations[report],
        positive=positive[report],
        groups=groups[report],
        thresholds=(threshold, running),
        calibration=curve,
        domain=domain,
        texts={name: int((part == k).sum()) for k, name in enumerate(("fit", "rank", "report"))},
        trained=0 not in set_by,
        negatives=int(quiet.sum()),
        controls=controls or {},
        sites=sites or {},
        seed=setting.seed,
    )
    return Monitor(
        readout=asked.readout,
        model_name=model.name,
        fingerprint=model.fingerprint,
        classes=asked.classes,
        pool=setting.pool,
        warm_up=setting.warm_up,
        threshold=threshold,
        running_threshold=running,
        calibration=curve,
        domain=domain,
        evidence=evidence,
        notes=tuple(notes),
        manifest=_manifest(asked, model, data, setting.seed, grouped),
    )


@dataclass(frozen=True)
class _Rows:
    pooled: np.ndarray  # [text] score of the whole text
    peaks: np.ndarray  # [text] the highest score while it streams
    activations: np.ndarray  # [text, d]
    cut: int


def _check_rate(false_alarms: object) -> None:
    if not isinstance(false_alarms, float | int) or not 0 < false_alarms < 0.5:
        raise ValueError(f"false_alarms is a share above 0 and below 0.5, such as 0.01; got {false_alarms!r}")


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def _thresholds(rate: float, rows: _Rows, quiet: np.ndarray, groups: np.ndarray, name: str) -> tuple[float, float, str]:
    """For whole texts and while they stream, and what has to be said of them."""
    threshold, kept = threshold_for(rate, rows.pooled[quiet], groups[quiet])
    running, _ = threshold_for(rate, rows.peaks[quiet], groups[quiet])
    running = max(
        running, threshold
    )  # texts too short to warm up have no say: where most are, the line of whole texts holds
    if kept:
        return threshold, running, ""
    have, needed = len(np.unique(groups[quiet])), negatives_needed(rate)
    what = "texts" if have == quiet.sum() else "groups of texts"
    return (
        threshold,
        running,
        (
            f"{have} {what} without {name!r} set the threshold, and {100 * rate:g} % false alarms take {needed} (1 / rate - 1, of "
            f"{-(-needed * 3 // 2)} given): the highest score is the threshold, and the rate about {100 / (have + 1):.2g} %"
        ),
    )


def _read_all(model: Model, readout: Readout, items: Sequence[Item], pool: str, warm_up: int) -> _Rows:
    pooled, peaks, activations, cut = [], [], [], 0
    for start in range(0, len(items), _AT_ONCE):
        passages = read_passages(model, items[start : start + _AT_ONCE], start)
        for passage, found in zip(passages, read(model, readout, passages, start), strict=True):
            so_far, ready = Running(pool, 1, warm_up).add(found.scores[None], passage.counted(pool)[None])
            pooled.append(so_far[0, -1])
            peaks.append(peak(so_far, ready))
            activations.append(found.mean)
            cut += passage.cut
    return _Rows(np.array(pooled), np.array(peaks), np.stack(activations), cut)


def _manifest(asked: Asked, model: Model, data: Dataset, seed: int, grouped: bool) -> dict[str, Any]:
    from probekit.versions import versions_of

    return {
        "probe": asked.origin,
        "tokens": tokens_digest(model),
        "data": {"texts": len(data), "fingerprint": data.fingerprint(), "groups": grouped},
        "seed": seed,
        "versions": versions_of("torch", "numpy", "transformers", "scikit-learn"),
        "made": datetime.now(UTC).isoformat("T", "seconds"),
    }
