"""`evaluate`: what an edit changes and what it breaks, beside controls, with every choice made on other items than are reported."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from probekit.activations import Activations, capture
from probekit.models import Model, load_model
from probekit.probes.direction import Direction
from probekit.progress import stepping
from probekit.surgery.directions.random_directions import random_directions, spectrum_directions
from probekit.surgery.edits.edit import Edit
from probekit.surgery.evaluating.behaviour import Behaviour
from probekit.surgery.evaluating.conditions import Condition, Measured, Measuring
from probekit.surgery.evaluating.edit_notes import notes_of, place_notes
from probekit.surgery.evaluating.edit_report import EditReport, MeasureFacts
from probekit.surgery.evaluating.edit_tables import BesidePlain, examples_of, figure_columns, test_columns, tests_of
from probekit.surgery.evaluating.found_on import FoundOn, refuse_overlap
from probekit.surgery.evaluating.verdict import RATIO_LIMIT, choose, judge
from probekit.versions import versions_of

_SPECTRUM_TEXTS = 200

Controls: TypeAlias = Mapping[str, Sequence[Direction | Edit]]
"""Controls by what kind they are: directions the edit is made again along, or edits as they are.

An edit at several sites follows one control direction at all of them, as `steer(layers="all")` does its own; so does a joined edit
(`together`), whose parts each have a direction of their own. A control of which each site has another direction is given as an edit.
"""


def evaluate(
    model: Model | Any,
    edit: Edit,
    *,
    behaviour: Behaviour,
    side_effects: Sequence[Behaviour] = (),
    controls: int = 20,
    spectrum: Activations | Sequence[str] | None = None,
    control_directions: Controls | None = None,
    baselines: Mapping[str, Edit] | None = None,
    strengths: Sequence[float] | None = None,
    prompt: str | None = None,
    damage_limit: float | Mapping[str, float] | None = None,
    found_on: FoundOn | None = None,
    cloud: int = 5,
    out: str | Path | None = None,
    seed: int = 0,
    n_boot: int = 2000,
    progress: bool = True,
) -> EditReport:
    """Measure what an edit does to a behaviour and to everything beside it.

    The plain model, the edited one and every control are measured on the same items, so that differences are paired. Given
    `strengths`, one is chosen on one half of the items and reported on the other. Whatever a scorer raises, the model is
    what it was afterwards.

    Args:
        model: That the edit was made for; as it is now it is "plain".
        edit: Of activations or of weights.
        behaviour: What it is to change: `generations`, `reading`, `next_token`, `choices`, `custom`.
        side_effects: What it should leave alone: `perplexity`, `next_token_kl`, `repetition`, ..., or any behaviour.
        controls: Random directions to compare with (p can reach 0.05 from 19 on); the very same edit is made along each, one vector
            at all its sites (see `Controls`). What is *added* is then exactly as long; what is projected out or set depends on the
            data along each direction, which for a direction of large variance is less: controls with the data's spectrum are the
            fairer ones there. An edit that follows no direction has none.
        spectrum: Ordinary texts (200 of them are read, drawn at random), or activations at the direction's site: as many controls
            again are drawn with the covariance of these activations (`spectrum_directions`), without those of each sequence's first token,
            which in many models are so long that nearly all of the covariance would be theirs.
        control_directions: Further kinds of control by name, or others in place of `"random"` and `"spectrum"`:
            `permuted_directions`, or edits.
        baselines: Other ways to the same end, by name: edits, such as those of `mezo` and `lora`.
        strengths: In the units of the edit; the edit as it is when left out, and then all items are reported, or, of an edit that a
            search chose, the half that the search did not see.
        prompt: Text put before every prompt of the plain model instead: what prompting does.
        damage_limit: Most damage a strength may do to be chosen: ratio of perplexities (1.05 where perplexity is among the side
            effects), or by name of a side effect, a ratio or a change for the worse.
        found_on: Texts that the direction or the edit was made from, or their data set: items that are among them, or begin one, are
            refused. Left out, that is not checked, and the report says so.
        cloud: Controls of each kind that are measured at every strength, and not only at the one chosen. Where these are all there
            are (20 of 20), each control chooses its own strength on the half that chooses, as the edit did, and p compares like with
            like; otherwise controls have no choice, and the report says what that does to p.
        out: Folder where each condition is kept, so that an evaluation that was killed goes on when called again.
        seed: Of the random directions and the bootstrap.
        n_boot: Draws of the bootstrap.
        progress: Whether to draw a bar (on stderr).

    Raises:
        TypeError: strengths for an edit that has none; with `out`, an edit that is more than numbers.
        ValueError: another model's edit, two measures of one name, a limit on what is not measured, strengths but items of one
            group only, items among `found_on`, or a reading that the edit cannot reach.
    """
    model = load_model(model)
    edit.check(model)
    measures = (behaviour, *side_effects)
    facts = _facts(measures, _limits(side_effects, damage_limit))
    overlap = "" if found_on is None else refuse_overlap(measures, found_on)
    doses = None if strengths is None else _strengths(edit, strengths)
    halves = doses is not None or edit.searched
    if halves:
        _need_two_halves(measures)
    notes = place_notes(model, edit, behaviour)
    kinds = _controls(
        edit, controls, _spectrum(model, edit, spectrum, controls, seed) | dict(control_directions or {}), seed, notes
    )
    measuring = Measuring(model, measures, None if out is None else Path(out))
    plain = Condition("plain", "plain")
    number_ = sum(map(len, kinds.values()))
    few = sum(min(cloud, len(each)) for each in kinds.values()) * (len(doses) - 1 if doses else 0)
    total = 1 + len(doses or (0,)) + number_ + few + (prompt is not None) + len(baselines or {})
    measured: dict[Condition, Measured] = {}

    with stepping("evaluate", total, progress) as advance, measuring:

        def take(condition: Condition) -> None:
            if any(condition.name == other.name for other in measured):
                raise ValueError(
                    f"two conditions are called {condition.name!r}: give the baseline or kind of control another name"
                )
            advance(condition.name, 0)
            measured[condition] = measuring.of(condition)
            advance(None, 1)

        take(plain)
        shown = ("report",) if doses is None else ("select", "report")
        compare = BesidePlain(measures, measured[plain], n_boot, seed, halves=halves, shown=shown)
        choice = None
        if doses is None:
            chosen = Condition("edited", "edit", edit, edit.strength)
            take(chosen)
        else:
            each = {s: Condition(f"strength {s:g}", "edit", edit.remade(strength=s), s) for s in doses}
            for condition in each.values():
                take(condition)
            on_select = {s: compare(measured[condition], "select") for s, condition in each.items()}
            choice = choose(facts, on_select, compare(measured[plain], "select"))
            chosen = each[choice.strength]
        held: dict[str, list[Condition]] = {kind: [] for kind, made in kinds.items() if made}
        for kind, made in kinds.items():
            for i, control in enumerate(made):
                tried = {}
                for s in [chosen.strength] + ([d for d in doses or () if d != chosen.strength] if i < cloud else []):
                    name = f"{kind} {i}" + ("" if doses is None else f", strength {s:g}")
                    made_again = _control(edit, control, None if doses is None else s)
                    tried[s] = Condition(name, "control", made_again, s, kind)
                    take(tried[s])
                best = chosen.strength
                if (
                    doses is not None and len(made) <= cloud
                ):  # all were tried at every strength: each chooses as the edit did
                    on_select = {s: compare(measured[tried[s]], "select") for s in doses}
                    best = choose(facts, on_select, compare(measured[plain], "select")).strength
                held[kind].append(tried[best])
        if prompt is not None:
            take(Condition("prompt", "prompt", prefix=prompt))
        for name, other in (baselines or {}).items():
            take(Condition(name, "baseline", other, other.strength))

    found = compare(measured[chosen], "report")
    tests = tests_of(facts, found, measured, compare, held)
    prompted = next((measured[c] for c in measured if c.kind == "prompt"), None)
    beside_prompt = None
    if prompted is not None:
        against = BesidePlain([behaviour], prompted, n_boot, seed, halves=halves, shown=("report",))
        beside_prompt = against(measured[chosen], "report")[behaviour.name]
    verdict = judge(
        facts, found, compare(measured[plain], "report"), tests, choice, along_direction=edit.direction is not None,
        beside_prompt=beside_prompt,
    )  # fmt: skip
    notes += notes_of(
        facts,
        measures,
        measured,
        compare,
        choice,
        tests,
        plain,
        chosen,
        model=model,
        searched=edit.searched,
        overlap=overlap,
        chose=[kind for kind, made in kinds.items() if doses is not None and 0 < len(made) <= cloud],
    )
    return EditReport(
        edit=(chosen.edit or edit).describe(),
        measures=facts,
        figures=figure_columns(measured, compare),
        tests=test_columns(tests),
        verdict=verdict,
        examples=examples_of(measuring.generating, measured[plain], measured[chosen]),
        scores={condition.name: each.scores for condition, each in measured.items()},
        parts={measure.name: measure.in_select if halves else np.zeros(len(measure), bool) for measure in measures},
        notes=tuple(notes),
        manifest={
            "model": {"name": model.name, "fingerprint": model.fingerprint},
            "arguments": {
                "controls": {kind: len(made) for kind, made in kinds.items()},
                "strengths": doses, "strengths of controls": {kind: [one.strength for one in taken] for kind, taken in held.items()},
                "prompt": prompt, "baselines": list(baselines or {}), "cloud": cloud, "seed": seed, "n_boot": n_boot,
            },
            "measures": [measure.describe() for measure in measures],
            "versions": versions_of("torch", "transformers", "numpy"),
        },
    )  # fmt: skip


def _facts(measures: Sequence[Behaviour], limits: Mapping[str, float]) -> tuple[MeasureFacts, ...]:
    return tuple(
        MeasureFacts(
            m.name, m.unit, m.less_is_wanted, m.compare == "ratio", len(m), int(m.in_select.sum()), int((~m.in_select).sum()),
            limits.get(m.name), str(m.describe()["digest"]),
        )
        for m in measures
    )  # fmt: skip


def _limits(side_effects: Sequence[Behaviour], given: float | Mapping[str, float] | None) -> dict[str, float]:
    ratios = [m.name for m in side_effects if m.compare == "ratio"]
    if isinstance(given, Mapping):
        if unknown := sorted(set(given) - {m.name for m in side_effects}):
            raise ValueError(f"damage_limit names {unknown[0]!r}, which is none of the side effects: {', '.join(m.name for m in side_effects) or 'none'}")  # fmt: skip
        return {name: float(limit) for name, limit in given.items()}
    if given is not None and not ratios:
        raise ValueError(
            "damage_limit is a ratio of perplexities, but no perplexity is among the side effects: give {name: limit}"
        )
    return dict.fromkeys(ratios, RATIO_LIMIT if given is None else float(given))


def _strengths(edit: Edit, given: Sequence[float]) -> list[float]:
    doses = sorted({float(s) for s in given})
    if not doses or not np.isfinite(doses).all():
        raise ValueError(f"strengths must be finite numbers, one or more, not {list(given)}")
    if edit.strength is None:
        raise TypeError(
            f"this edit has no one strength to choose ({edit.name}): it has none, or its parts have several; leave strengths out"
        )
    return doses


def _need_two_halves(measures: Sequence[Behaviour]) -> None:
    for measure in measures:
        if not measure.in_select.any() or measure.in_select.all():
            raise ValueError(
                f"{measure.name!r} has items of one group only, so that nothing can be chosen on some and reported on others: give more"
            )


def _spectrum(
    model: Model, edit: Edit, given: Activations | Sequence[str] | None, count: int, seed: int
) -> dict[str, list[Direction]]:
    """Controls with the spectrum of the plain model's activations; none where nothing is given or the edit has no direction."""
    if given is None or count < 1 or edit.direction is None or edit._remake is None or edit.direction.site is None:
        return {}
    if not isinstance(given, Activations):
        some = np.random.default_rng([seed, 0x59EC]).permutation(len(given))[:_SPECTRUM_TEXTS]
        given = capture(model, [given[i] for i in np.sort(some)], edit.direction.site, progress=False)
    after_first = np.asarray(given.position) > 0
    rows = after_first if after_first.any() else None
    return {"spectrum": spectrum_directions(edit.direction, given, count, seed, rows=rows)}


def _controls(
    edit: Edit, count: int, given: Controls | None, seed: int, notes: list[str]
) -> dict[str, list[Direction | Edit]]:
    kinds: dict[str, list[Direction | Edit]] = {}
    own = edit.direction if edit._remake is not None else None
    if edit.direction is not None and own is None and count > 0:
        notes.append(
            "How this edit was made is not known, so it cannot be made again along other directions (load_edit(folder, model))."
        )
    if own is not None and (edit.recipe or {}).get("how") in ("ablate", "fix", "reflect", "orthogonalize"):
        notes.append(
            "This edit moves activations as far as they lie along its direction, and a control as far as they lie along its own: random "
            "directions move them less than one along which the data vary much. Controls from the data (spectrum=) are fairer."
        )
    if own is not None and count > 0:
        kinds["random"] = list(random_directions(own, count, seed))
    for name, made in (given or {}).items():
        if own is None and any(isinstance(one, Direction) for one in made):
            raise ValueError(
                f"{edit.name!r} follows no direction, so it cannot be made along others: give controls as edits"
            )
        # A control must be as long as the edit: strengths are counted in the scale of its own direction.
        kinds[name] = [
            replace(one, scale=own.scale) if isinstance(one, Direction) and own is not None else one for one in made
        ]
    if not any(kinds.values()):
        why = "it follows no direction" if own is None else "none was asked for"
        notes.append(f"There is no control ({why}): that another edit of this size would do the same is not ruled out.")
    return kinds


def _control(edit: Edit, control: Direction | Edit, strength: float | None) -> Edit:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the edit adds a vector")  # as long as the edit's own
        if isinstance(control, Direction):
            return edit.remade(control, strength)
        return control if strength is None or control.strength is None else control.remade(strength=strength)
