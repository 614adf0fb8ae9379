"""Which strength to take, and what an evaluation comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probekit.surgery.evaluating.edit_report import MeasureFacts, Verdict, number, shown
from probekit.surgery.evaluating.effects import Comparison, wanted

ALPHA = 0.05
RATIO_LIMIT = 1.05
"""Most that a perplexity may grow unless another limit is given: edited over plain."""

Compared = Mapping[str, Comparison]
"""By measure."""


@dataclass(frozen=True)
class Test:
    """The edit beside one kind of control, by one measure.

    Attributes:
        p: Share of the controls, and the edit itself, that are at least as extreme.
        effects: `[control]` effects of the controls.
    """

    measure: str
    control: str
    p: float
    effects: np.ndarray

    @property
    def can_tell(self) -> bool:
        """Whether there are controls enough for p to come down to 0.05."""
        return 1 / (1 + len(self.effects)) <= ALPHA


@dataclass(frozen=True)
class Choice:
    """The strength that is reported, whether it is within the damage allowed, and all that would be worth shipping."""

    strength: float
    within: bool
    worth: tuple[float, ...]


def gain(measure: MeasureFacts, found: Comparison) -> float:
    """Effect towards what is wanted (of a ratio, its logarithm); -inf where there is none."""
    value = wanted(measure.less_is_wanted, measure.ratio, found.effect.value)
    return value if np.isfinite(value) else -np.inf


def is_real(measure: MeasureFacts, found: Comparison) -> bool:
    """Whether the interval lies wholly on the wanted side of no change."""
    ends = [wanted(measure.less_is_wanted, measure.ratio, end) for end in (found.effect.low, found.effect.high)]
    return bool(np.isfinite(ends).all() and min(ends) > 0)


def too_much(measures: Sequence[MeasureFacts], found: Compared, plain: Compared) -> list[str]:
    """What damage is beyond its limit, in words; what cannot be measured any more is, too, the behaviour included."""
    out = []
    for i, measure in enumerate(measures):
        here = found[measure.name]
        if here.failed > plain[measure.name].failed:
            out.append(f"{measure.name} could not be measured on {here.failed} items")
        elif i and measure.limit is not None:
            harm = here.effect.value if measure.ratio or measure.less_is_wanted else -here.effect.value
            if not harm <= measure.limit:
                what = "ratio" if measure.ratio else "change"
                out.append(
                    f"{measure.name}: {what} {shown(here.effect, measure.ratio)}, allowed {number(measure.limit)}"
                )
    return out


def choose(measures: Sequence[MeasureFacts], doses: Mapping[float, Compared], plain: Compared) -> Choice:
    """The strength with the largest wanted effect among those within the damage allowed.

    Where none is within it, or none has an effect, the one with the largest effect of all that change anything.

    Args:
        measures: The behaviour, then the side effects with their limits.
        doses: By strength, what was measured on the half that chooses.
        plain: The plain model there.
    """
    behaviour = measures[0]
    within = [s for s, found in doses.items() if not too_much(measures, found, plain)]
    gains = {s: gain(behaviour, found[behaviour.name]) for s, found in doses.items()}
    allowed = [s for s in within if gains[s] > 0]
    best = max(allowed or [s for s in doses if gains[s] != 0] or doses, key=lambda s: (gains[s], -abs(s)))
    worth = tuple(sorted(s for s in allowed if is_real(behaviour, doses[s][behaviour.name])))
    return Choice(best, best in within, worth)


def judge(
    measures: Sequence[MeasureFacts],
    found: Compared,
    plain: Compared,
    tests: Sequence[Test],
    choice: Choice | None,
    *,
    along_direction: bool,
    beside_prompt: Comparison | None = None,
) -> Verdict:
    """What it comes to, in words.

    Args:
        found, plain: The edit at the strength chosen, and the plain model, on the half held back.
        tests: Against every kind of control.
        choice: None where no strength was chosen.
        along_direction: Whether the edit follows a direction.
        beside_prompt: The behaviour with the edit, beside prompting in place of plain; None where no prompt was given.
    """
    behaviour = measures[0]
    here = found[behaviour.name]
    against = [test for test in tests if test.measure == behaviour.name]
    beaten = [test for test in against if test.can_tell and test.p <= ALPHA]
    matched = [test for test in against if test.can_tell and not test.p <= ALPHA]
    chosen = None if choice is None else choice.strength
    at = "" if chosen is None else f" at strength {number(chosen)}"
    harm = too_much(measures, found, plain)
    if not np.isfinite(here.effect.value):
        words = f"Could not be judged{at}: {'; '.join(harm) or f'{behaviour.name} has no score on the same items before and after'}."
        return Verdict(words, False, False, chosen)
    why = []
    if not is_real(behaviour, here):
        other = gain(behaviour, here) < 0 and not _holds_nothing(behaviour, here)
        what = "it moves the other way" if other else f"the interval of the change includes {behaviour.no_change:g}"
        why.append(f"{what} ({_effect(behaviour, here)})")
    for test in matched:
        as_far = round(test.p * (1 + len(test.effects))) - 1
        why.append(f"{as_far} of {len(test.effects)} controls ({test.control}) do as much or more (p = {test.p:.2g})")
    subject = "direction" if along_direction else "edit"
    if why:
        broken = f" What it breaks: {'; '.join(harm)}." if harm else ""
        return Verdict(f"This {subject} does not steer this{at}: {'; '.join(why)}.{broken}", False, False, chosen)
    effect = f"{behaviour.name} changes by {_effect(behaviour, here)}"
    if beaten:
        which = _listed([f"{len(test.effects)} controls ({test.control})" for test in beaten])
        effect += f", beyond what {which} do (p = {max(test.p for test in beaten):.2g})"
    elif against:
        few = max(against, key=lambda test: test.p)
        as_far = round(few.p * (1 + len(few.effects))) - 1
        effect += f"; {as_far} of {len(few.effects)} controls ({few.control}) do as much or more, and so few cannot tell (19 or more can)"
    else:
        effect += "; whether any other change of this size would do the same was not tested"
    if harm or (choice is not None and not choice.within):
        reason = "; ".join(harm) or "on the half that chose, none of the strengths was within it"
        return Verdict(
            f"It steers, but not within the damage allowed{at}: {reason}. There, {effect}.", False, True, chosen
        )
    limited = [m for m in measures[1:] if m.limit is not None]
    kept = _listed(
        [f"{m.name} {'ratio' if m.ratio else 'change'} {shown(found[m.name].effect, m.ratio)}" for m in limited]
    )
    within = (
        f"Damage stays within what is allowed: {kept}."
        if limited
        else "Damage was not measured, or has no limit, so whether it is worth shipping is not known (side_effects=, damage_limit=)."
    )
    beats = beside_prompt is None or is_real(behaviour, beside_prompt)
    if beside_prompt is not None:
        how = "further than prompting" if beats else "no further than prompting for certain"
        within = f"That is {how} (edit against prompt: {_effect(behaviour, beside_prompt)}). {within}"
    if choice is None or not beaten or not limited or not beats:
        return Verdict(f"It steers{at}: {effect}. {within}", bool(beaten or not against), True, chosen)
    also = [number(s) for s in choice.worth if s != choice.strength]
    others = f" On the half that chose, strength {_listed(also)} would do, too." if also else ""
    prompted = "" if beside_prompt is not None else " What a prompt would do instead was not measured (prompt=)."
    words = f"Worth shipping{at}. On the items held back, {effect}. {within}{prompted}{others}"
    return Verdict(words, True, True, chosen, choice.worth or (choice.strength,))


def _holds_nothing(measure: MeasureFacts, found: Comparison) -> bool:
    low, high = found.effect.low, found.effect.high
    return not (low > measure.no_change or high < measure.no_change)


def _effect(measure: MeasureFacts, found: Comparison) -> str:
    return f"{'a factor of ' if measure.ratio else ''}{shown(found.effect, measure.ratio)} {'' if measure.ratio else measure.unit}".strip()


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
