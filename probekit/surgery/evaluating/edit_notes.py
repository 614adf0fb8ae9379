"""What a reader of an evaluation must know beside its figures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from probekit.models import Model
from probekit.probes.direction import Direction
from probekit.surgery.edits.activation_edit import ActivationEdit
from probekit.surgery.edits.edit import Edit
from probekit.surgery.evaluating.behaviour import Behaviour
from probekit.surgery.evaluating.behaviours import Custom
from probekit.surgery.evaluating.conditions import Condition, Measured
from probekit.surgery.evaluating.edit_report import MeasureFacts
from probekit.surgery.evaluating.edit_tables import BesidePlain
from probekit.surgery.evaluating.effects import FEWEST_GROUPS
from probekit.surgery.evaluating.found_on import made_from
from probekit.surgery.evaluating.generations import Generations
from probekit.surgery.evaluating.running import Piece, pieces
from probekit.surgery.evaluating.verdict import Choice, Test

LOUD = 2**0.5
"""Activations this much longer are said to be loud: as by a vector as long as they are, at right angles."""
LISTENED, WINDOW = 8, 64  # texts that are listened to, and tokens of a window of them


def place_notes(model: Model, edit: Edit, behaviour: Behaviour) -> list[str]:
    """Refuses a behaviour that the edit cannot reach; says so where a reading reads what was just written."""
    where = getattr(edit, "where", None)
    if (
        where is not None
        and where.tokens == "generated"
        and not isinstance(behaviour.source or behaviour, Generations | Custom)
    ):
        raise ValueError(
            f"the edit acts at generated tokens only, and {behaviour.name!r} generates nothing, so that nothing can change there: measure "
            "behaviours.generations, or edit at all tokens"
        )
    site = getattr(behaviour, "site", None)
    if site is None or not isinstance(edit, ActivationEdit):
        return []
    order = {name: i for i, name in enumerate(model.sites)}
    model.site(site)
    if order[site] < min(order[name] for name in edit.sites):
        raise ValueError(
            f"{behaviour.name!r} is read at {site}, before the edit: nothing can change there; read at a later site"
        )
    if site in edit.sites:
        return [f"{behaviour.name} is read at {site}, where the edit itself writes: this shows that it was put in, not that the model takes it up."]  # fmt: skip
    return []


def _choice_notes(choice: Choice | None, tests: Sequence[Test], searched: bool, chose: Sequence[str]) -> list[str]:
    """Whether controls had a choice where the edit had one."""
    if not tests or (choice is None and not searched):
        return []
    kinds = list(dict.fromkeys(test.control for test in tests))
    without = [kind for kind in kinds if kind not in chose]
    out = []
    if len(without) < len(kinds):
        which = ", ".join(kind for kind in kinds if kind not in without)
        out.append(
            f"Each control ({which}) chose its own strength on the half that chooses, as the edit did, and stands at that strength in every "
            "p, those of side effects too."
        )
    if searched and len(without) < len(kinds):
        out.append("The edit's place was searched, which no control's was: p may be too small.")
    if without:
        what = (
            "place, sign and strength were searched"
            if searched
            else "strength was chosen (its sign, too, where both were tried)"
        )
        advice = (
            "" if searched else f" With cloud={max(len(t.effects) for t in tests)} each control chooses for itself."
        )
        out.append(
            f"The edit's {what}; each control ({', '.join(without)}) is measured as the edit came out, without a choice of its own. Where the "
            "choice was wide, p is too small: with strengths of both signs, a direction like any other has p up to 0.05 about one time in "
            f"ten.{advice}"
        )
    return out


def _unreached(edit: Edit | None, measures: Sequence[Behaviour]) -> list[str]:
    """Measures that an edit at some tokens cannot reach, so that no change is no finding."""
    where = getattr(edit, "where", None)
    if where is None or where.tokens == "all" or where.tokens == "prompt":
        return []
    generating = {measure.name for measure in measures if isinstance(measure.source or measure, Generations)}
    still = [measure.name for measure in measures if measure.name not in generating]
    if where.tokens == "generated" and still:
        return [
            f"The edit acts at generated tokens only, and {', '.join(still)} generate nothing: that they do not change says nothing of what "
            "the edit breaks."
        ]
    if where.tokens != "generated" and still:
        return [
            f"The edit acts at {where} only: measures over whole texts ({', '.join(still)}) see it at few tokens or none, and change less than "
            "what is generated."
        ]
    return []


def _reliable(direction: Direction) -> str:
    """The first thing to look at: whether two halves of the data give the same direction."""
    if known := direction.provenance.get("reliability"):
        return f"Reliability of the direction: {known}."
    return (
        "Whether two halves of the data give the same direction is not known here; look at that first: "
        "surgery.split_half_reliability, whose words in the direction's provenance (`reliability`) would stand here."
    )


def loudness_notes(model: Model, edit: Edit, measures: Sequence[Behaviour]) -> list[str]:
    """Says where activations become much longer than the model is used to, whether by hooks or by changed weights.

    Reads the lengths in the stream with the edit and without, on a few of the texts that are measured; none where no measure
    has texts.

    Args:
        model: As it is without the edit.
        edit: As it is reported.
        measures: Of the first that has texts, the texts are taken.
    """
    given = next((some for measure in measures if (some := _pieces(model, measure))), [])
    if not given:
        return []
    plain = _lengths(model, given)
    with edit.applied(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the edit adds a vector")
        edited = _lengths(model, given)
    louder = {site: float(np.median(edited[site] / np.maximum(plain[site], 1e-30))) for site in plain}
    site = max(louder, key=lambda name: louder[name])
    if not louder[site] > LOUD:
        return []
    lower = "" if edit.strength is None else ", or lower the strength"
    return [
        f"The edit makes activations at {site} {louder[site]:.1f} times as long as in the plain model (median over the tokens of "
        f"{len(given)} texts), which the model was never trained on: expect nonsense{lower}."
    ]


def _pieces(model: Model, measure: Behaviour) -> list[Piece]:
    """Its first items, where they are texts or token ids; of a long one, its beginning."""
    found: list[str | list[int]] = []
    for item in measure.items[:LISTENED]:
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, Sequence | np.ndarray) and all(
            isinstance(i, int | np.integer) and 0 <= i < model.vocab for i in item
        ):
            found.append([int(i) for i in item])
    window = WINDOW if model.context is None else max(2, min(WINDOW, model.context - 2))
    try:
        given = pieces(model, found, window=window)
    except ValueError:  # names of items rather than texts: a measure of one's own may have those
        return []
    return list({piece.item: piece for piece in reversed(given)}.values())


def _lengths(model: Model, given: Sequence[Piece]) -> dict[str, np.ndarray]:
    """By site of the stream, `[token]` lengths of the activations."""
    each: dict[str, list[np.ndarray]] = {site: [] for site in model.stream_sites}

    def hear(site: str, value: Tensor) -> None:
        each[site].append(value[0].double().norm(dim=-1).cpu().numpy())

    for piece in given:
        model.visit(torch.from_numpy(piece.ids[None]), None, model.stream_sites, hear)
    return {site: np.concatenate(found) for site, found in each.items()}


def notes_of(
    facts: Sequence[MeasureFacts],
    measures: Sequence[Behaviour],
    measured: Mapping[Condition, Measured],
    compare: BesidePlain,
    choice: Choice | None,
    tests: Sequence[Test],
    plain: Condition,
    chosen: Condition,
    *,
    model: Model | None = None,
    searched: bool = False,
    overlap: str = "",
    chose: Sequence[str] = (),
) -> list[str]:
    """What was chosen where, activations that become too long, items without a score, intervals and controls that are too few.

    Args:
        model: The plain model, to listen how long the edit makes activations; None: that is not looked at.
        searched: Whether a search chose the edit.
        overlap: What `refuse_overlap` said; empty where nobody said what the edit was found on.
        chose: Kinds of control that each chose a strength of their own.
    """
    direction = None if chosen.edit is None else chosen.edit.direction
    out = [] if direction is None else [_reliable(direction)]
    if model is not None and chosen.edit is not None:
        out += loudness_notes(model, chosen.edit, measures)
    if choice is None and searched:
        out.append(
            "The edit came out of a search on one half of the items; figures are of the other half. Of items that the search did not "
            "have, that leaves half unused."
        )
    elif choice is None:
        out.append("No strength was chosen, so all items are reported.")
    else:
        out.append(
            f"Strength {choice.strength:g} was chosen on one half of the items, and its figures are of the other half, which was held back."
        )
    out += _choice_notes(choice, tests, searched, chose)
    out += _unreached(chosen.edit, measures)
    out.append(overlap or made_from(direction))
    for measure in measures:
        counts = {c: int((~np.isfinite(measured[c].scores[measure.name])).sum()) for c in measured}
        if counts[plain] or counts[chosen]:
            out.append(
                f"{measure.name}: {counts[plain]} of {len(measure)} items have no score in the plain model and {counts[chosen]} in the "
                "edited one; pairs with one missing are left out, not counted as zero."
            )
        worst = max((c for c in measured if c.kind in ("control", "baseline")), key=lambda c: counts[c], default=None)
        if worst is not None and counts[worst] > max(counts[plain], counts[chosen]):
            out.append(
                f"{measure.name}: up to {counts[worst]} of {len(measure)} items have no score in controls ({worst.name})."
            )
        groups = compare(measured[chosen], "report")[measure.name].groups
        if groups < FEWEST_GROUPS:
            out.append(
                f"{measure.name}: only {groups} independent groups of items are reported, and the interval is too short for so few."
            )
        for condition in measured:
            if condition.kind == "prompt" and counts[condition] == len(measure):
                out.append(f"{measure.name} was not measured with the prompt: there is nothing to put it before.")
    if all(measure.limit is None for measure in facts):
        what = "was set (damage_limit=)" if len(facts) > 1 else "could be set: there are no side effects"
        out.append(
            f"No limit of damage {what}"
            + ("." if choice is None else ", so the strength was chosen by its effect alone.")
        )
    for kind in dict.fromkeys(test.control for test in tests if not test.can_tell):
        count = next(len(test.effects) for test in tests if test.control == kind)
        out.append(f"{count} controls ({kind}) are too few for p to come down to 0.05: 19 are needed.")
    return out
