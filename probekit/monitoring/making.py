"""`make`: a monitor from a model and labelled texts, the probe and its layer with it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probekit.activations import capture
from probekit.activations.stream import names_of_sites
from probekit.data import LabelSet, as_dataset
from probekit.models import Model
from probekit.monitoring.controls import Control, Parts, shuffled_labels, words_alone
from probekit.monitoring.false_alarms import negatives_needed
from probekit.monitoring.fitting import put_to_use, setting_of
from probekit.monitoring.held_out import three_parts, together
from probekit.monitoring.monitor import Monitor
from probekit.monitoring.passages import Item
from probekit.monitoring.readout import readout_of
from probekit.probes import fit_grid
from probekit.probes.base import LinearProbe
from probekit.probes.held_out import fold_of_rows, mean_over_folds
from probekit.probes.stack import ProbeStack
from probekit.progress import stepping

if TYPE_CHECKING:
    from probekit.data import Dataset

FOLDS = 4
FEWEST = 3 * FOLDS  # texts of a class: each part has one for every fold
POOLS = ("last", "mean")


def make(
    model: Model,
    texts: Sequence[Item] | Dataset,
    labels: object,
    *,
    sites: Sequence[str] | str | None = None,
    pool: str = "last",
    false_alarms: float = 0.05,
    groups: object = None,
    seed: int = 0,
    alarm_class: object = None,
    calibration: str | None = None,
    warm_up: int | None = None,
    controls: bool = True,
    progress: bool = True,
) -> Monitor:
    """A monitor from labelled texts: train a logistic probe, choose where it reads, set its thresholds, measure what it does.

    The texts are divided into three, by group and with both classes in each. On the first third probes are fitted, and the site
    and the penalty are those with the least log-loss on folds of it that are held out in turn; the domain is measured from it. The
    second third calibrates, sets the thresholds, and is what new texts are ranked among: it has no part in the choice of the
    site, without which the promised rate of false alarms would not hold. The last third is reported on only. Texts should be
    drawn as those that will be monitored.

    `Evidence.controls` holds what the same thresholds make of a probe fitted to `shuffled labels` (20 draws) and of the `words
    alone`, on the same texts.

    Args:
        model: The model that is monitored.
        texts: Texts, token ids of each, or a `Dataset`.
        labels: `[text]` values; of a `Dataset`, the name of its label set will do. Of more than two classes `alarm_class` is held
            against all others.
        sites: Where the probe may read; all stream sites, unless given.
        pool: What a text is read by, and how token scores make a text's score: its `last` token, or the `mean` over its own.
        false_alarms: The share of texts without the alarm class that may raise an alarm. It takes `1 / false_alarms - 1` of them in
            the second third, three times as many in all.
        groups: `[text]` texts of one group (author, topic) stay in one part; those that are identical always do.
        seed: Of the division, the folds and the controls.
        alarm_class: The class that raises the alarm; the second of two (the true one) unless named.
        calibration: `temperature` (default), `platt` or `isotonic`.
        warm_up: Own tokens of a text before it may raise an alarm while it streams; 0, and 4 for `mean`, unless given.
        controls: Whether to fit the controls.
        progress: Whether to draw progress bars (on stderr).

    Raises:
        ValueError: labels that are not classes, or of one class; too few texts for the rate (says how many it takes), of a class, or
            in groups too coarse to divide.
        KeyError: a site, label set or class that does not exist.
    """
    setting = setting_of(false_alarms, pool, calibration, warm_up, seed, POOLS)
    data = as_dataset(texts)  # type: ignore[arg-type]
    places = names_of_sites(sites, model.stream_sites)
    for place in places:
        model.site(place)
    positive, classes = _two_classes(labels, data, alarm_class)
    within = together(groups, data)
    _require_enough(positive, classes)
    part = three_parts(positive, within, seed)
    _require_negatives(setting.false_alarms, positive, within, part, classes)

    found = _choose(model, data, places, pool, positive, within, part == 0, seed, progress)
    found.probe.site_ = found.site
    found.probe.classes_ = np.array(classes)
    asked = readout_of(found.probe, model, found.site, None, 0, None)
    asked.origin.update(C=found.C, chosen=f"least log-loss over {FOLDS} folds of the training part")
    beside: dict[str, Control] = {}
    if controls:
        parts = Parts(positive, within, part, setting.false_alarms)
        X = capture(model, data, found.site, pool=pool, progress=False).read(found.site)
        beside["shuffled labels"] = shuffled_labels(X, parts, found.C, seed)
        beside["words alone"] = words_alone(data.texts or data.tokens or (), parts, found.held, seed)
    return put_to_use(
        asked,
        model,
        data,
        positive,
        within,
        part,
        setting,
        set_by=(1,),
        grouped=groups is not None or data.group_names is not None,
        controls=beside,
        sites=found.losses,
    )


def _two_classes(labels: object, data: Dataset, alarm_class: object) -> tuple[np.ndarray, tuple[str, str]]:
    """`[text]` bool: of the alarm class; and the names of the quiet class and of that one."""
    given = data.label_set(labels) if isinstance(labels, str) else labels
    if not isinstance(given, LabelSet):
        given = LabelSet.from_values("label", given)  # type: ignore[arg-type]
    if given.kind == "continuous":
        raise ValueError(f"label {given.name!r} is continuous: a monitor needs classes, such as value > 3")
    if given.level != "sequence" or given.values.shape != (len(data), 1):
        raise ValueError(
            f"labels must be one a text, [{len(data)}], got {given.level} labels of shape {given.values.shape}"
        )
    column = given.values[:, 0]
    if (column < 0).any():
        raise ValueError(f"label {given.name!r}: {int((column < 0).sum())} texts have no label; leave them out")
    if alarm_class is None and len(given.classes) > 2:
        raise ValueError(
            f"label {given.name!r} has {len(given.classes)} classes: say which raises the alarm (alarm_class), one of "
            f"{', '.join(given.classes[:8])}"
        )
    wanted = given.classes[1] if alarm_class is None else str(alarm_class)
    if wanted not in given.classes:
        raise KeyError(f"label {given.name!r} has no class {wanted!r}; its classes are {', '.join(given.classes[:8])}")
    others = [name for name in given.classes if name != wanted]
    return column == given.classes.index(wanted), (others[0] if len(others) == 1 else f"not {wanted}", wanted)


def _require_enough(positive: np.ndarray, classes: tuple[str, str]) -> None:
    for name, count in ((classes[1], int(positive.sum())), (classes[0], int((~positive).sum()))):
        if count == 0:
            raise ValueError(f"no text is of class {name!r}: a monitor is made of texts of both classes")
        if count < FEWEST:
            raise ValueError(
                f"{count} texts are of class {name!r}, and it takes {FEWEST} at least: a third to fit on, a third to set the "
                "threshold, a third to report on"
            )


def _require_negatives(
    rate: float, positive: np.ndarray, groups: np.ndarray, part: np.ndarray, classes: tuple[str, str]
) -> None:
    """Refuse a rate that so few texts cannot promise."""
    have, needed = len(np.unique(groups[(part == 1) & ~positive])), negatives_needed(rate)
    if have >= needed:
        return
    everywhere = len(np.unique(groups[~positive]))
    can = math.ceil(1000 / (have + 1)) / 1000
    what = "texts" if everywhere == (~positive).sum() else "groups of texts"
    raise ValueError(
        f"{100 * rate:g} % false alarms take {needed} {what} of class {classes[0]!r} to set the threshold, and {have} of the {everywhere} "
        f"given are in the third that does: give {3 * needed}" + (f", or ask for {100 * can:g} %" if can < 0.5 else "")
    )


@dataclass(frozen=True)
class _Chosen:
    probe: LinearProbe
    site: str
    C: float
    losses: dict[str, float]  # held-out log-loss by site, nats
    held: np.ndarray  # [text, fold] bool


def _choose(
    model: Model,
    data: Dataset,
    sites: Sequence[str],
    pool: str,
    positive: np.ndarray,
    groups: np.ndarray,
    train: np.ndarray,
    seed: int,
    progress: bool,
) -> _Chosen:
    """Site and penalty with the least log-loss on the folds of the training part, and the probe fitted to all of it."""
    labels, within = positive[train].astype(np.int64), groups[train]
    fold = fold_of_rows(labels, within, FOLDS, seed)
    held = fold[:, None] == np.arange(fold.max() + 1)  # [text, fold]
    if any(len(np.unique(labels[~out])) < 2 for out in held.T):
        raise ValueError(
            f"the {len(np.unique(within))} groups of the training part cannot be held out in turn without taking a class away: "
            "give finer groups, or more texts"
        )
    fitted, judged = np.where(held, -1, labels[:, None]), np.where(held, labels[:, None], -1)
    store = capture(model, data, sites, pool=pool, rows=train, progress=progress)
    losses: dict[str, float] = {}
    values: dict[str, float] = {}
    with stepping("probes ", len(sites), progress) as advance:
        for site in sites:
            advance(site, 0)
            X = store.read(site)
            stack = _logistic(X, fitted)
            loss = stack.loss(X, judged).reshape(len(stack.grid), -1)  # [grid, fold]
            mean = mean_over_folds(loss, held)
            losses[site], values[site] = float(mean.min()), float(stack.grid[int(mean.argmin())])
            advance(None, 1)
    best = min(sites, key=losses.__getitem__)
    probe = _logistic(store.read(best), labels[:, None], [values[best]]).select(0).probe(0)
    return _Chosen(probe, best, values[best], losses, held)


def _logistic(X: np.ndarray, Y: np.ndarray, grid: Sequence[float] | None = None) -> ProbeStack:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what did not converge is judged on held-out texts like the rest
        return fit_grid("logistic", X, Y, grid, n_classes=2)
