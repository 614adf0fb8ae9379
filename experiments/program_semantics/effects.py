"""What a push of the robot's turn does to the next action, chosen on one half of the programs and reported on the other.

A program that does what is asked for moves when the place at the end lies ahead, and turns where it does not, unless markers lie elsewhere. So a model
that acts on its state must, after the push, do what suits the *edited* state:

- *lost*: the end lay ahead, after the turn it no longer does. The log odds of `move` must fall, compared with places where it lies ahead before and
  after.
- *gained*: the end did not lie ahead, after the turn it does. They must rise, compared with places where it does neither before nor after.
- *following* is gained minus lost: 0 if the push does whatever it does regardless of where the end lies.
- *turning*: the end lay straight ahead or behind, after the turn it lies to one side. The log odds of `turn_left` over `turn_right` must be higher
  where that is the left than where it is the right; half the difference is given.

Comparing with places of the same kind before the push takes out what any push of that length does to `move`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pushes import Places, Ways, odds, random_ways

import probekit as pk

STRENGTHS = (0.5, 1.0, 2.0, 4.0)
MEASURES = ("following", "lost", "gained", "turning")


def measures(change: np.ndarray, places: Places, counts: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """`MEASURES` of the change of the log odds `[place, 2]`, in nats.

    Args:
        counts: `[draw, place]` how often each place is drawn; left out, each once. Measures are `[draw]`, NaN where a kind of place
            is not there.
    """
    counts = np.ones((1, len(places))) if counts is None else counts
    before, after = places.ahead.T
    straight = places.side[:, 0] == 0
    left, right = straight & (places.side[:, 1] < 0), straight & (places.side[:, 1] > 0)

    def mean(which: np.ndarray, column: int = 0) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (counts[:, which] @ change[which, column]) / counts[:, which].sum(1)

    lost = mean(before & ~after) - mean(before & after)
    gained = mean(~before & after) - mean(~before & ~after)
    turning = (mean(left, 1) - mean(right, 1)) / 2
    return {"following": gained - lost, "lost": lost, "gained": gained, "turning": turning}


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
    *, strengths: Sequence[float] = STRENGTHS, random: int = 20, draws: int = 1000, seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Choose site and strength by `following` on one half of the groups; report on the other, beside random directions.

    Args:
        store: Activations whose spectrum random directions have.
        ways: By site.

    Returns:
        Every setting on the half for choosing (`site`, `read`, the accuracy of the probes there, `strength`, measures); the report, a row a measure (`value`, `low`, `high`, for random
        directions `mean`, `least`, `most` and `p`, the share of them and the probes' own that do as much); and the mean change of the
        log odds of `move` by kind of place, with intervals.

    Raises:
        ValueError: too few places to choose on.
    """
    choose, report = halves(places, seed)
    chances = odds(model, choose, {(site, s, -1): one for site, one in ways.items() for s in strengths})
    plain = chances.pop(None)
    tried = pd.DataFrame(
        [
            {"site": key[0], "read": ways[key[0]].read, "strength": key[1]}
            | {n: float(v[0]) for n, v in measures(after - plain, choose).items()}
            for key, after in chances.items()
        ]
    )
    if tried.following.isna().any():
        raise ValueError(
            f"among {len(choose)} places to choose on, some kind of place ({', '.join(KINDS.values())}) is missing: push more programs"
        )
    best = tried.loc[tried.following.idxmax()]
    site, strength = str(best.site), float(best.strength)
    activations = store.read(site)
    strays = {(site, strength, i): random_ways(ways[site], activations, i) for i in range(random)}
    reported = odds(model, report, {(site, strength, -1): ways[site], **strays})
    plain, own = reported.pop(None), reported.pop((site, strength, -1))
    counts = group_counts(report.group, draws)
    value, drawn = measures(own - plain, report), measures(own - plain, report, counts)
    chance = pd.DataFrame([{n: float(v[0]) for n, v in measures(r - plain, report).items()} for r in reported.values()])
    rows = []
    for name in MEASURES:
        low, high = np.nanquantile(drawn[name], (0.025, 0.975))
        as_much = (chance[name].abs() >= abs(value[name][0])).sum()
        rows.append(
            {"site": site, "read": ways[site].read, "strength": strength, "measure": name, "value": float(value[name][0]), "low": low, "high": high, "random mean": chance[name].mean(),
             "random least": chance[name].min(), "random most": chance[name].max(), "p": (1 + as_much) / (1 + len(chance)), "places": len(report)}
        )  # fmt: skip
    return tried, pd.DataFrame(rows), by_kind(plain, own, np.mean(list(reported.values()), 0), report, counts)


KINDS = {
    (True, False): "lost: the end lay ahead, then not",
    (True, True): "ahead before and after",
    (False, True): "gained: the end not ahead, then ahead",
    (False, False): "not ahead before and after",
}


def by_kind(plain: np.ndarray, own: np.ndarray, random: np.ndarray, places: Places, counts: np.ndarray) -> pd.DataFrame:
    """For each kind of place: log odds of `move` without a push, and the change by the push and by random ones (their mean)."""
    rows = []
    for (before, after), name in KINDS.items():
        there = (places.ahead == (before, after)).all(1)
        row: dict[str, object] = {"kind": name, "places": int(there.sum())}
        if not there.any():
            continue
        for what, values in (("plain", plain), ("push", own - plain), ("random", random - plain)):
            with np.errstate(invalid="ignore"):
                drawn = counts[:, there] @ values[there, 0] / counts[:, there].sum(1)
            low, high = np.nanquantile(drawn, (0.025, 0.975))
            row |= {what: values[there, 0].mean(), f"{what} low": low, f"{what} high": high}
        rows.append(row)
    return pd.DataFrame(rows)
