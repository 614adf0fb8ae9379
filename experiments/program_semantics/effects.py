"""What a push of the robot's turn does to the next action, chosen on one half of the programs and reported on the other.

A short program that does what is asked for mostly moves when the place at the end lies ahead, and turns where it lies to a side. References are random and
wander, so this is a tendency that a model can have learned, not a rule. Every place is pushed twice, by a turn to the right and by one to the left, and
only the difference between the two counts: it is of the same prefix, and both pushes change the same targets.

- *following*: the end lies to one side. The log odds of `move` after the turn towards it, minus those after the turn away from it.
- *turning*: the end lies straight ahead or behind, after a turn to one side. The log odds of `turn_left` over `turn_right` where that is the left, minus
  those where it is the right.

Both are 0 for a model that does not act on what is pushed. Beside them stand random pushes of the same length and geometry, whose mean is what a push
does for reasons of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pushes import TURNS_PUSHED, Places, Ways, odds, only, random_ways

import probekit as pk

STRENGTHS = (0.5, 1.0, 2.0, 4.0)
MEASURES = ("following", "turning")
PUSHED = {"all of the state": (0, 1, 2, 3), "turned alone": (0,), "turn_to_go alone": (1,), "to_go alone": (2, 3)}
"""What is pushed: columns of the targets of `pushes.READ`. With the end ahead, which is the rule, a turn puts what is left to turn and where the end lies to
the same side: only apart can they be told."""


def each_place(after: np.ndarray, places: Places) -> dict[str, np.ndarray]:
    """`MEASURES` of log odds `[place, turn, 2]`, in nats: `[place]`, NaN at places that a measure does not speak of."""
    right, left = (after[:, TURNS_PUSHED.index(turn)] for turn in (1, 3))
    towards = places.side * (right - left)[:, 0]
    # After a turn to the right what lay ahead is to the left.
    to_the_left = places.ahead * (right - left)[:, 1]
    straight = (places.side == 0) & (places.ahead != 0)
    return {
        "following": np.where(places.side != 0, towards, np.nan),
        "turning": np.where(straight, to_the_left, np.nan),
    }


def measures(after: np.ndarray, places: Places) -> dict[str, float]:
    """Means of `each_place`; NaN where there is no place that a measure speaks of."""
    found = {name: values[~np.isnan(values)] for name, values in each_place(after, places).items()}
    return {name: float(values.mean()) if len(values) else float("nan") for name, values in found.items()}


def group_counts(group: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """`[draw, row]` how often each row is drawn when whole groups are drawn with replacement."""
    of_row = np.unique(group, return_inverse=True)[1]
    groups = int(of_row.max()) + 1
    drawn = np.random.default_rng([seed, 0x6407]).multinomial(groups, np.full(groups, 1 / groups), size=draws)
    return drawn[:, of_row].astype(np.float64)


def halves(places: Places, seed: int) -> tuple[Places, Places]:
    """Places to choose on and to report on; no group is in both."""
    names = np.unique(places.group)
    first = np.isin(places.group, np.random.default_rng([seed, 0x4A1F]).permutation(names)[: len(names) // 2])
    return places.take(np.flatnonzero(first)), places.take(np.flatnonzero(~first))


def experiment(
    model: pk.Model, store: pk.ActivationStore, ways: Mapping[str, Ways], places: Places,
    *, strengths: Sequence[float] = STRENGTHS, random: int = 99, draws: int = 1000, seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """For each of `PUSHED`, choose site and strength by the sum of the measures on one half of the groups; report on the other.

    Args:
        store: Activations whose spectrum random vectors have.
        ways: By site.

    Returns:
        Every setting on the half for choosing (`pushed`, `site`, `read`, the accuracy of the probes there, `strength`, measures); the report, a row a measure
        (`value`, the mean and 95 % range of random pushes, `beyond` the value minus that mean with its interval over groups, `p`, the share of random pushes
        and the own one that lie as far from that mean); and the measures of each random push.

    Raises:
        ValueError: too few places to choose on.
    """
    choose, report = halves(places, seed)
    tried, reported, chance = [], [], []
    for what, columns in PUSHED.items():
        own = {site: only(one, *columns) for site, one in ways.items()}
        found = odds(model, choose, {(site, s, -1): one for site, one in own.items() for s in strengths})
        mine = [
            {"pushed": what, "site": key[0], "read": ways[key[0]].read, "strength": key[1]} | measures(after, choose)
            for key, after in found.items()
        ]
        total = np.array([sum(row[name] for name in MEASURES) for row in mine])
        if np.isnan(total).any():
            raise ValueError(
                f"among {len(choose)} places to choose on, none has the end to a side, or none has it straight ahead: push more programs"
            )
        tried += mine
        site, strength = mine[int(total.argmax())]["site"], mine[int(total.argmax())]["strength"]
        activations = store.read(site)
        strays = {(site, strength, i): random_ways(own[site], activations, i) for i in range(random)}
        after = odds(model, report, {(site, strength, -1): own[site], **strays})
        value = each_place(after.pop((site, strength, -1)), report)
        others = [each_place(one, report) for one in after.values()]
        counts = group_counts(report.group, draws)
        for name in MEASURES:
            there = ~np.isnan(value[name])
            by_push = np.array([one[name][there].mean() for one in others])
            beyond = value[name][there] - np.mean([one[name][there] for one in others], axis=0)
            drawn = counts[:, there] @ beyond / counts[:, there].sum(1)
            low, high = np.quantile(drawn, (0.025, 0.975))
            far = np.abs(by_push - by_push.mean()) >= abs(beyond.mean())
            reported.append(
                {"pushed": what, "site": site, "read": ways[site].read, "strength": strength, "measure": name, "value": value[name][there].mean(),
                 "random mean": by_push.mean(), "random low": np.quantile(by_push, 0.025), "random high": np.quantile(by_push, 0.975),
                 "beyond": beyond.mean(), "low": low, "high": high, "p": (1 + far.sum()) / (1 + random), "places": int(there.sum())}
            )  # fmt: skip
            chance += [{"pushed": what, "measure": name, "value": one} for one in by_push]
    return pd.DataFrame(tried), pd.DataFrame(reported), pd.DataFrame(chance)
