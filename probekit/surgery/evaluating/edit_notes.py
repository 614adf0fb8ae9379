"""What a reader of an evaluation must know beside its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from probekit.models import Model
from probekit.surgery.edits.activation_edit import ActivationEdit
from probekit.surgery.edits.edit import Edit
from probekit.surgery.evaluating.behaviour import Behaviour
from probekit.surgery.evaluating.conditions import Condition, Measured
from probekit.surgery.evaluating.edit_report import MeasureFacts
from probekit.surgery.evaluating.edit_tables import BesidePlain
from probekit.surgery.evaluating.effects import FEWEST_GROUPS
from probekit.surgery.evaluating.verdict import Choice, Test


def place_notes(model: Model, edit: Edit, behaviour: Behaviour) -> list[str]:
    """Refuses a reading that the edit cannot reach; says so where it reads what was just written."""
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


def notes_of(
    facts: Sequence[MeasureFacts],
    measures: Sequence[Behaviour],
    measured: Mapping[Condition, Measured],
    compare: BesidePlain,
    choice: Choice | None,
    tests: Sequence[Test],
    plain: Condition,
    chosen: Condition,
) -> list[str]:
    """What was chosen where, items without a score, intervals and controls that are too few."""
    out = []
    if choice is None:
        out.append("No strength was chosen, so all items are reported.")
    else:
        out.append(
            f"Strength {choice.strength:g} was chosen on the select part of the items, and its figures are of the report part."
        )
    out.append("Which texts the direction or the edit was made from is not known here: items must not be among them.")
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
    if len(facts) > 1 and all(measure.limit is None for measure in facts):
        out.append("No limit of damage was set (damage_limit=), so the strength was chosen by its effect alone.")
    for kind in dict.fromkeys(test.control for test in tests if not test.can_tell):
        count = next(len(test.effects) for test in tests if test.control == kind)
        out.append(f"{count} controls ({kind}) are too few for p to come down to 0.05: 19 are needed.")
    return out
