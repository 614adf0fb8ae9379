"""Which layers, how strongly, in what way? A search with two objectives, kept in a file, and its frontier as a menu."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from probekit.activations.progress import Bar
from probekit.models import Model, load_model
from probekit.probes.direction import Direction
from probekit.surgery.edits.activation_edit import ActivationEdit
from probekit.surgery.edits.edit import Edit, edits_on, refuse_other_model
from probekit.surgery.edits.folding import orthogonalize
from probekit.surgery.edits.joining import together
from probekit.surgery.edits.linear import ablate, steer
from probekit.surgery.edits.rows import shift_rows
from probekit.surgery.evaluating.behaviour import Behaviour
from probekit.surgery.evaluating.conditions import digest_of

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    import plotly.graph_objects as go

Kind = Literal["steer", "ablate", "orthogonalize", "shift_rows"]
KINDS: tuple[Kind, ...] = ("steer", "ablate", "orthogonalize", "shift_rows")
_STARTUP = 10  # trials drawn at random before the estimator learns from them
_FAINT = 0.05  # of the peak: layers that would get less are left alone


@dataclass(frozen=True)
class Search:
    """What was tried, on the select part only. Report the one you take with `evaluate`, which measures what came out of a search
    on the other part, also after saving and loading.

    Attributes:
        trials: One a trial: `number`, `kind`, its settings, `effect` (mean change of the behaviour) and `damage` (mean change of
            the side effect; a ratio of perplexities for those).
        behaviour, damage: Names of what was measured.
        less_is_wanted: Whether a negative effect is what is wanted.
        more_is_damage: Whether a larger `damage` is worse (of an accuracy, a smaller one is).
    """

    trials: tuple[Mapping[str, Any], ...]
    behaviour: str
    damage: str
    less_is_wanted: bool
    more_is_damage: bool
    _model: Model = field(repr=False)
    _directions: tuple[Direction, ...] = field(repr=False)

    @property
    def frontier(self) -> tuple[Mapping[str, Any], ...]:
        """Trials that no other trial beats in both, the mildest first: the menu."""
        sign = 1 if self.less_is_wanted else -1
        worse = 1 if self.more_is_damage else -1
        ordered = sorted(self.trials, key=lambda t: (worse * t["damage"], sign * t["effect"]))
        found: list[Mapping[str, Any]] = []
        for trial in ordered:
            if not found or sign * trial["effect"] < sign * found[-1]["effect"]:
                found.append(trial)
        return tuple(found)

    def edit(self, number: int) -> Edit:
        """The edit of a trial, made again."""
        trial = next((t for t in self.trials if t["number"] == number), None)
        if trial is None:
            raise KeyError(f"no trial {number}: there are {len(self.trials)}")
        edit = edit_of(self._model, self._directions, trial)
        edit.searched = True
        return edit

    def to_frame(self) -> pd.DataFrame:
        """All trials; `frontier` marks the menu."""
        import pandas as pd

        best = {trial["number"] for trial in self.frontier}
        return pd.DataFrame([dict(trial) | {"frontier": trial["number"] in best} for trial in self.trials])

    def plot(self) -> go.Figure:
        """Effect against damage, the frontier joined up."""
        from probekit.report.search_figure import plot_search

        return plot_search(self)


def search(
    model: Model | Any,
    directions: Sequence[Direction],
    *,
    behaviour: Behaviour,
    side_effect: Behaviour,
    kinds: Sequence[Kind] = KINDS,
    trials: int = 60,
    strongest: float = 8.0,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Search:
    """Try ways to edit along directions, one direction a layer, by what they do to a behaviour and to a side effect.

    Steering follows a smooth profile over layers: a bell with a peak, a width and a strength, each layer along its own direction;
    ablation takes the layers within the bell. Orthogonalisation and row shifts follow one layer's direction everywhere.
    Candidates come from a tree-structured Parzen estimator with two objectives (Ozaki et al. 2020, as in Optuna).

    Args:
        directions: Of the stream, one a layer, found on other text than is measured here.
        behaviour: What is to change; measured on its select part only.
        side_effect: What should stay: `perplexity`, `next_token_kl`, ...; on its select part.
        kinds: What is tried.
        trials: How many in all; with `out`, those already there count.
        strongest: Largest strength of steering at the peak, in standard deviations.
        out: File that the study is kept in (a journal); the same call goes on from it after a kill.
        seed: The same seed gives the same trials, also when the search was interrupted.
        progress: Whether to draw a bar.

    Raises:
        ValueError: no directions, directions of another model, or a file that holds a search of something else.
    """
    import optuna

    model = load_model(model)
    ordered = _by_layer(model, directions)
    if not kinds or set(kinds) - set(KINDS):
        raise ValueError(f"kinds are some of {', '.join(KINDS)}, not {list(kinds)}")
    if trials < 1 or not strongest > 0:
        raise ValueError(f"trials must be 1 or more and strongest above 0, got {trials} and {strongest}")
    wanted, harm = behaviour.only("select"), side_effect.only("select")
    asked = {
        "model": model.fingerprint,
        "behaviour": wanted.describe(),
        "side_effect": harm.describe(),
        "kinds": list(kinds),
        "strongest": strongest,
        "seed": seed,
        "directions": [[d.site, d.scale, hashlib.sha256(d.vector.numpy().tobytes()).hexdigest()[:16]] for d in ordered],
        "edits": [digest_of(edit) for edit in edits_on(model)],
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _study(out, asked)
    for measure in (wanted, harm):
        measure.prepare(model)
    plain = [measure.measure(model) for measure in (wanted, harm)]
    for measure, before in zip((wanted, harm), plain, strict=True):
        if not np.isfinite(before).any():
            raise ValueError(f"{measure.name}: no item of the select part could be scored")
    done = _finished(study)
    bar = Bar(progress, trials, f"search {behaviour.name} against {side_effect.name}")
    bar.advance(min(len(done), trials))
    try:
        while len(done) < trials:
            # A sampler of its own each time, so that an interrupted search draws what it would have drawn.
            study.sampler = optuna.samplers.TPESampler(
                seed=seed * 100_003 + len(done) + _without_figures(study),
                multivariate=True,
                group=True,
                n_startup_trials=_STARTUP,
            )
            trial = study.ask()
            edit = edit_of(model, ordered, _suggest(trial, kinds, len(ordered), strongest))
            with edit.applied(model):
                scores = [measure.measure(model) for measure in (wanted, harm)]
            scores = [m.finish(model, s) for m, s in zip((wanted, harm), scores, strict=True)]
            values = [_change(m, s, p) for m, s, p in zip((wanted, harm), scores, plain, strict=True)]
            if all(map(math.isfinite, values)):
                sign = 1 if behaviour.less_is_wanted else -1
                study.tell(trial, [sign * values[0], values[1] if side_effect.less_is_wanted else -values[1]])
            else:
                trial.set_user_attr("figures", False)
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            done = _finished(study)
            bar.advance(1)
            if len(study.trials) > 3 * trials:
                raise ValueError("most trials gave no finite figures: lower `strongest`, or look at the scorer")
    finally:
        bar.close()
    sign = 1 if behaviour.less_is_wanted else -1
    harm_sign = 1 if side_effect.less_is_wanted else -1
    each = [
        {
            "number": i,
            **_settings(t.params),
            "effect": sign * t.values[0],
            "damage": _shown(side_effect, harm_sign * t.values[1]),
        }
        for i, t in enumerate(done[:trials])
    ]
    return Search(
        tuple(each),
        behaviour.name,
        side_effect.name,
        behaviour.less_is_wanted,
        side_effect.less_is_wanted,
        model,
        ordered,
    )


def edit_of(model: Model, directions: Sequence[Direction], settings: Mapping[str, Any]) -> Edit:
    """The edit that a trial's settings stand for."""
    kind = settings["kind"]
    if kind in ("steer", "ablate"):
        weights = bell(len(directions), settings["peak"], settings["width"])
        chosen = [(d, w) for d, w in zip(directions, weights, strict=True) if w >= (_FAINT if kind == "steer" else 0.5)]
        made: list[ActivationEdit] = [
            steer(d, model, settings["strength"] * w) if kind == "steer" else ablate(d, model) for d, w in chosen
        ]
        return together(*made)
    direction = directions[int(settings["source"])]
    if kind == "orthogonalize":
        return orthogonalize(direction, model)
    return shift_rows(direction, model, settings["strength"], share=settings["share"], rows=settings["rows"])


def bell(layers: int, peak: float, width: float) -> np.ndarray:
    """`[layer]` float64: a bell over layers with height 1 at its nearest layer."""
    heights = np.exp(-0.5 * ((np.arange(layers) - peak) / width) ** 2)
    return np.asarray(heights / heights.max())


def _by_layer(model: Model, directions: Sequence[Direction]) -> tuple[Direction, ...]:
    if not directions:
        raise ValueError("search needs directions, one a layer of the stream")
    for one in directions:
        refuse_other_model(one, model)
        if one.site not in model.stream_sites:
            raise ValueError(f"{one.site} is not a site of the stream: search edits what blocks put out")
        if one.scale is None:
            raise ValueError(f"the scale of the direction at {one.site} is not known: direction.measured(activations)")
    sites = [one.site for one in directions]
    if len(set(sites)) < len(sites):
        raise ValueError("two directions at one site: give one a layer")
    return tuple(sorted(directions, key=lambda d: model.stream_sites.index(str(d.site))))


def _suggest(trial: optuna.Trial, kinds: Sequence[Kind], layers: int, strongest: float) -> dict[str, Any]:
    kind = trial.suggest_categorical("kind", list(kinds))
    settings: dict[str, Any] = {"kind": kind}
    if kind in ("steer", "ablate"):
        settings["peak"] = trial.suggest_float(f"{kind}.peak", 0, layers - 1)
        settings["width"] = trial.suggest_float(f"{kind}.width", 0.3, max(0.5, layers / 2), log=True)
    else:
        settings["source"] = trial.suggest_int(f"{kind}.source", 0, layers - 1)
    if kind == "steer":
        settings["strength"] = trial.suggest_float("steer.strength", -strongest, strongest)
    if kind == "shift_rows":
        settings["strength"] = trial.suggest_float("shift_rows.strength", -2, 2)
        settings["share"] = trial.suggest_float("shift_rows.share", 0.002, 0.2, log=True)
        settings["rows"] = trial.suggest_categorical("shift_rows.rows", ["opposed", "aligned"])
    return settings


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name.rsplit(".", 1)[-1]: value for name, value in params.items()}


def _study(out: str | Path | None, asked: dict[str, Any]) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = None
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        try:
            storage = JournalStorage(JournalFileBackend(str(out)))
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{out} is no journal of a search, or a damaged one ({error}): give another file; lines before the damage can be kept by hand"
            ) from error
    study = optuna.create_study(
        study_name="probekit", directions=["minimize", "minimize"], storage=storage, load_if_exists=True
    )
    known = study.user_attrs.get("asked")
    if known is None:
        study.set_user_attr("asked", json.dumps(asked, sort_keys=True))
    elif json.loads(known) != json.loads(json.dumps(asked)):
        before = json.loads(known)
        changed = [name for name in asked if before.get(name) != json.loads(json.dumps(asked[name]))]
        raise ValueError(f"{out} holds a search with another {' and '.join(changed)}: give another file")
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # it was running when the search was killed
    return study


def _without_figures(study: optuna.Study) -> int:
    """Trials that gave no finite figures; those that were running when a search was killed are not among them."""
    return sum("figures" in trial.user_attrs for trial in study.get_trials(deepcopy=False))


def _finished(study: optuna.Study) -> list[Any]:
    import optuna

    return list(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)))


def _change(measure: Behaviour, scores: np.ndarray, plain: np.ndarray) -> float:
    """Mean change of the items that have a score before and after; NaN where more than a tenth of those before have none after."""
    before = np.isfinite(plain)
    known = before & np.isfinite(scores)
    if (before & ~known).sum() > 0.1 * before.sum():
        return math.nan
    return float(np.average(scores[known] - plain[known], weights=measure.weights[known]))


def _shown(measure: Behaviour, change: float) -> float:
    return math.exp(min(change, 700.0)) if measure.compare == "ratio" else change
