"""Does what a name says change when its feature is taken out of the running model?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from probekit.data import Dataset, as_dataset
from saes.features import SparseFeatures
from saes.loading import check_features, check_read
from saes.naming.contexts import Contexts
from saes.naming.judging import nearest_features
from saes.naming.names import Check, Names
from saes.naming.readouts import LEAST, OTHERS, Readout, Readouts
from saes.naming.running import Runner, places_of, runner_of
from saes.scoring.feature_scores import Half, halves

if TYPE_CHECKING:
    from probekit.models import Model
    from probekit.probes import SweepResult

_FEATURES = 39


def contribution(sae: Any, feature: int, values: np.ndarray) -> Tensor:
    """`[row, d]` float32: what a feature adds to the SAE's reconstruction at these activations."""
    return torch.from_numpy(values.astype(np.float32))[:, None] * sae.W_dec[feature].detach().float().cpu()


def intervene(
    names: Names,
    sae: Any,
    features: SparseFeatures,
    model: Model,
    data: Dataset | Sequence[str],
    *,
    probes: SweepResult | None = None,
    groups: np.ndarray | None = None,
    most: int = 20,
    rows: int = 64,
    seed: int = 0,
) -> Names:
    """Check the best names by taking their features out of the model where they fire.

    At rows where a feature fires, what it adds to the reconstruction is taken from the stream, and the model runs on. Of a name
    from labels, the log odds of the labels are read by the probes at the best later site; of `before words like ...`, the
    log odds that the next token begins the word; of `words like ...` and `text about ...`, how near the activation half of the
    later layers further on is to the word's own (its mean state in templates). `check.what` says which.

    A step along any direction moves any readout a little, one way or the other, at every row alike; so many rows show no more than
    that it does. What is tested is whether the name says what falls *most*: the same readouts are taken of up to 199 other names
    (words of the texts; as many labels of other targets), and `p` is the share of them that fall at least as far. Where there
    are fewer than 19 others, 39 other features take their place, each taken out at the same rows by a step as long. All checks of
    a call share one correction (Benjamini-Hochberg), so that with 39 features `p` cannot be below 1 in 40, and at least half of the
    names checked have to reach that for any to hold: check few names (`most`) of a small label set.

    Rows are of the half of the sequences that judged the names, one a sequence. Names from a language model are sentences that
    nothing reads out of the model, and are not checked.

    Args:
        names: From `saes.name`, with the same seed.
        sae: The SAE, whose features must add up to the stream (no normalisation of its input).
        features: The features the names are of.
        model, data: The model, and what was captured.
        probes: A sweep over the labels of the names, at sites after the SAE's; without it names from labels are not checked,
            which a warning says.
        groups: `[sequence]`, as `saes.name` was given them; those of `data` if left out, where it used any.
        most: Names checked, those with the highest lower end of the balanced accuracy first.
        rows: Rows looked at a name.
        seed: Of the halving, the rows and the controls.

    Returns:
        The names, with `check` filled in where one could be made.

    Raises:
        ValueError: features of another SAE, model or data; names from labels only and no probes; an SAE that normalises its input; groups or a split by which the sequences are
            halved otherwise than they were for the names.
    """
    check_features(sae, features)
    check_read(features, model, data)
    if getattr(sae.cfg, "normalize_activations", "none") not in ("none", None):
        raise ValueError("this SAE normalises its input, so that its features are not steps in the stream")
    site = features.manifest.site
    unread = {"language_model"} if probes is not None else {"language_model", "labels"}
    readable = [name for name in names if name.source not in unread]
    ranked = sorted(readable, key=lambda name: -np.nan_to_num(name.evidence.balanced_accuracy_low))[:most]
    if probes is None and (left := sum(name.source == "labels" for name in names)):
        need = "names from labels are checked through probes at later sites: give probes=, a sweep over them"
        if not ranked:
            raise ValueError(need)
        warnings.warn(f"{left} names are not checked ({need})", stacklevel=2)
    report = _judging_half(names, features, as_dataset(data), groups)
    matrix = features.matrix.tocsr()
    near = nearest_features(sae)
    runner = runner_of(model, data, site)
    readouts = Readouts(model, site, probes, _words(names, features, model, seed), seed)
    checks: dict[int, Check] = {}
    for name in ranked:
        readout = readouts.of(name)
        if readout is None:
            continue
        rng = np.random.default_rng([seed, name.feature])
        column = features.matrix[:, [name.feature]].toarray()[:, 0]
        chosen = one_a_sequence(
            report.rows[column[report.rows] >= name.evidence.threshold], features.sequence, rows, rng
        )
        others = np.array([_another(matrix[[row]].indices, name.feature, near, rng) for row in chosen], int)
        chosen, others = chosen[others >= 0], others[others >= 0]
        if len(chosen) < 5:
            continue
        step = -contribution(sae, name.feature, column[chosen])
        here, places = replace(runner, later=readout.later), places_of(features, chosen)
        effect, beside_it = _effects(here, readout, places, step, _taken_out(sae, others, step.norm(dim=1)))
        control = beside_it[:, 0]
        if effect.shape[1] - 1 >= LEAST:
            beside = effect[:, 1:].mean(0)
        else:
            free = np.setdiff1d(np.arange(features.width), [name.feature, *near[name.feature]])
            some = [np.full(len(chosen), one) for one in rng.permutation(free)[:_FEATURES]]
            steps = [_taken_out(sae, one, step.norm(dim=1)) for one in some]
            beside = np.array([one[:, 0].mean() for one in _effects(here, readout, places, *steps)])
        if np.isfinite(effect).all() and np.isfinite(control).all():
            checks[name.feature] = _check(effect[:, 0], control, beside[np.isfinite(beside)], readout, rng)
    if checks:
        q = stats.false_discovery_control([check.p for check in checks.values()], method="bh")
        checks = {f: replace(check, q=float(one)) for (f, check), one in zip(checks.items(), q, strict=True)}
    return replace(names, names=tuple(replace(n, check=checks.get(n.feature, n.check)) for n in names))


def _taken_out(sae: Any, features: np.ndarray, length: Tensor) -> Tensor:
    """Steps `[row, d]` of a length that take features `[row]` out."""
    unit = torch.nn.functional.normalize(sae.W_dec[features].detach().float().cpu(), dim=1)
    return -unit * length[:, None]


def _effects(runner: Runner, readout: Readout, places: np.ndarray, *steps: Tensor) -> list[np.ndarray]:
    """For each step `[row, d]`, how the readouts change by it: `[row, 1 + others]` float64."""
    before, *after = (readout.read(*found) for found in runner.run(places, None, *steps))
    return [(one - before).double().numpy() for one in after]


def _words(names: Names, features: SparseFeatures, model: Model, seed: int) -> tuple[str, ...]:
    """Words that a feature might be called: of the texts where they are known, else of the names."""
    called = {n.text[n.text.index("“") + 1 : -1] for n in names if n.source == "vocabulary" and "“" in n.text}
    if model.tokenizer is None or not called:
        return ()
    try:
        words, index = Contexts(features, model).words
        common = np.bincount(index, minlength=len(words)) >= 5
        called |= {word for word, often in zip(words, common, strict=True) if often and any(map(str.isalpha, word))}
    except ValueError:
        pass  # rows whose neighbours are not there
    every = sorted(called)
    return tuple(every[i] for i in np.sort(np.random.default_rng([seed, 0x0E5]).permutation(len(every))[:OTHERS]))


def mean_interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % interval of the mean of `[row]`, bootstrapped; rows are of different sequences."""
    draws = values[rng.integers(0, len(values), (1000, len(values)))].mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _judging_half(names: Names, features: SparseFeatures, data: Dataset, groups: np.ndarray | None) -> Half:
    """The half of the sequences that judged the names, dealt as it was then."""
    if names.halved == "sequences":
        report = halves(features, None, names.seed)[1]
    else:
        split = data.split if names.halved == "split" else None
        report = halves(features, None, names.seed, data.groups if groups is None else groups, split)[1]
    if names.judged and report.name != names.judged:
        raise ValueError(
            f"the sequences are halved otherwise than they were for these names (by {names.halved}): give the groups= that saes.name "
            "had, or the data set with its groups and split"
        )
    return report


def _check(
    effect: np.ndarray, control: np.ndarray, beside: np.ndarray, readout: Readout, rng: np.random.Generator
) -> Check:
    low, high = mean_interval(effect, rng)
    mean, unit = float(effect.mean()), readout.unit
    p = (1 + int((beside <= mean).sum())) / (1 + len(beside))
    beyond = mean_interval(effect - control, rng)[1]
    return Check(
        readout.what, mean / unit, low / unit, high / unit, float(control.mean()) / unit, beyond / unit, len(effect), p
    )


def one_a_sequence(rows: np.ndarray, sequence: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `most` of the rows, at random, no two of a sequence; in order."""
    shuffled = rng.permutation(rows)
    _, first = np.unique(sequence[shuffled], return_index=True)
    kept: np.ndarray = np.sort(rng.permutation(shuffled[first])[:most])
    return kept


def _another(active: np.ndarray, feature: int, near: np.ndarray, rng: np.random.Generator) -> int:
    """A feature that fires, too, and is neither this one nor one of its nearest; -1 if none does."""
    others = np.setdiff1d(active, [feature, *near[feature]])
    return int(rng.choice(others)) if len(others) else -1
