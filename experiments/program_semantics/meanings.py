"""The semantic intervention: are the states that can be read those of the true meaning, or would any meaning do?

A probe that reads states after a program's words may do the interpreting itself: from a mere record of the words it could compute what
they do. Then it would compute as well what they *would* do if `turn_left` meant `turn_right`. So the actions' meaning is permuted, tokens
and hidden states stay, the programs run again, and probes are trained on the new states (Jin & Rinard, arXiv 2305.11169, section 4.3).

Two things make this less simple than it sounds. A permuted meaning may be harder whatever the model does; and a specification shows the outputs of
the *true* meaning, so that a hidden state that holds no more than the words so far and the ends of the run knows something of the true states
only. So every difference is also taken beside two baselines that never saw the model: `words` (the last three words and counts of the
words so far), and `words and ends` (these, and how the run begins and ends, in the world and in the robot's own terms, as the specification shows it).

Labels of `turned` do not depend on walls under any of the meanings here. Under a permuted meaning `gone` does, because a move
into a wall then does nothing: it is the harder label for that reason alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

import probekit as pk
from probekit.activations import ActivationStore, ArrayActivations
from probekit.probes.intervals import paired_interval
from probekit.testbeds import karel
from probekit.testbeds.karel.labels import seen_by
from probekit.testbeds.karel.tokens import Encoding
from probekit.testbeds.karel.world import FACINGS, SIZE

TRUE = "true"
MEANINGS: dict[str, dict[str, str]] = {
    TRUE: {},
    "turns swapped": {"turn_left": "turn_right", "turn_right": "turn_left"},
    "move and turn_left swapped": {"move": "turn_left", "turn_left": "move"},
    "move as turn_left as turn_right": {"move": "turn_left", "turn_left": "turn_right", "turn_right": "move"},
    "move as turn_right as turn_left": {"move": "turn_right", "turn_right": "turn_left", "turn_left": "move"},
}
"""What the actions are to mean. All keep the marker actions, so that a new meaning differs in how the robot moves. In the last two,
each of three actions takes the meaning of the next, and the last that of the first."""
BASELINES = ("words", "words and ends")

READ, EASIER, SAME, OTHER = (
    "states of the true meaning",
    "no more than without the model",
    "no difference",
    "against it",
)
OUTCOMES: dict[str, tuple[str, str]] = {
    READ: (
        "The true meaning is read better, and by more than from either baseline.",
        "The hidden states hold what the programs really do, beyond a record of their words: a probe that did the interpreting itself "
        "would do it for any meaning.",
    ),
    EASIER: (
        "The true meaning is read better, but not by more than from a baseline.",
        "The true meaning is the easier one from the words, or from the words and the ends of the run. Nothing follows for the model.",
    ),
    SAME: (
        "The interval of the difference holds zero.",
        "What is read may be a record of the words that the probe interprets; or there are too few programs to tell.",
    ),
    OTHER: (
        "The permuted meaning is read better.",
        "The permuted meaning is the easier one, whatever the model knows; look at the baselines. It speaks against states of the true "
        "meaning if they do not show the same.",
    ),
}  # fmt: skip
"""What may come out, when, and what it would mean."""


def baseline_rows(
    problems: karel.Problems, data: pk.Dataset, store: ActivationStore, example: int = 0
) -> ArrayActivations:
    """The baselines in place of the store's sites: the same rows, with what can be told of them without the model.

    Args:
        problems: Whose sequences `data` holds.
        store: Of the rows `program_rows(data)`.
        example: In whose world the labels hold.
    """
    surface = data.surface_features()
    assert surface is not None
    words = np.asarray(surface, np.float32)[store.item]
    inputs, outputs = problems.example(example)
    poses = [one_hot(part, size) for world in (inputs, outputs) for part, size in _pose(world)]
    poses += [one_hot(part, size) for part, size in _way(inputs, outputs)]
    ends = np.concatenate(poses, axis=1)[store.sequence]
    rows = {"words": words, "words and ends": np.concatenate([words, ends], axis=1)}
    return ArrayActivations(
        rows, sequence=store.sequence, position=store.position, token=store.token, prefix=store.prefix, item=store.item
    )


def _pose(worlds: karel.Worlds) -> list[tuple[np.ndarray, int]]:
    row, column = np.divmod(worlds.cell.astype(np.int64), SIZE)
    return [(worlds.facing.astype(np.int64), len(FACINGS)), (row, SIZE), (column, SIZE)]


def _way(inputs: karel.Worlds, outputs: karel.Worlds) -> list[tuple[np.ndarray, int]]:
    """From the start to the end, as the robot sees it at the start: the turn, steps ahead and to the right."""
    facing = inputs.facing.astype(np.int64)
    rows, columns = (
        b - a for a, b in zip(*(np.divmod(w.cell.astype(np.int64), SIZE) for w in (inputs, outputs)), strict=True)
    )
    steps = [(way + SIZE, 2 * SIZE) for way in seen_by(rows, columns, facing)]
    return [((outputs.facing.astype(np.int64) - facing) % len(FACINGS), len(FACINGS)), *steps]


def one_hot(values: np.ndarray, size: int) -> np.ndarray:
    """`[row, size]` float32 of `[row]` integers."""
    return np.eye(size, dtype=np.float32)[values]


def sweep_meanings(
    store: ActivationStore,
    problems: karel.Problems,
    encoding: Encoding,
    labels: Sequence[str],
    *,
    n_boot: int,
    with_baselines: bool,
    more_of_true: Sequence[str] = (),
    controls: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame, pk.SweepResult]:
    """Probe the same hidden states under every meaning.

    Args:
        labels: Label sets to read under every meaning.
        n_boot: Bootstrap draws.
        with_baselines: Whether to read the baselines, too, and compare with them.
        more_of_true: Further label sets, of the true meaning only.
        controls: Whether to fit the controls of the sweep, under the true meaning.

    Returns:
        The frames of all sweeps with a column `meaning`, baselines as further sites of the source `baseline`; `differences` (empty without
        baselines); and the sweep under the true meaning.
    """
    told = {name: karel.problems_dataset(problems, encoding=encoding, meaning=m) for name, m in MEANINGS.items()}
    if not labels:
        told = {TRUE: told[TRUE]}
    bare = baseline_rows(problems, told[TRUE], store) if with_baselines else None
    frames, model, plain = [], {}, {}
    for name, data in told.items():
        wanted = list(dict.fromkeys((*labels, *(more_of_true if name == TRUE else ()))))
        model[name] = pk.sweep(
            store, data, labels=wanted, controls=controls and name == TRUE, n_boot=n_boot, progress=False
        )
        frames.append(model[name].to_frame().assign(meaning=name))
        if bare is not None:
            plain[name] = pk.sweep(bare, data, labels=wanted, controls=False, n_boot=n_boot, progress=False)
            frames.append(plain[name].to_frame().assign(meaning=name, source="baseline"))
    compared = [differences(model, plain, label) for label in labels] if plain else [pd.DataFrame()]
    return pd.concat(frames, ignore_index=True), pd.concat(compared, ignore_index=True), model[TRUE]


def differences(
    model: Mapping[str, pk.SweepResult], plain: Mapping[str, pk.SweepResult], label_set: str
) -> pd.DataFrame:
    """Accuracy under the true meaning minus that under each permuted one, in pairs, and the same less what a baseline shows.

    All sweeps are of the same rows with the same split and seed, so that their bootstrap draws are of the same groups of
    programs and differences of draws are draws of the difference. Each meaning is read at its own best site (on validation), so that
    the permuted ones are not held to a site that was chosen for the true one.

    Args:
        model, plain: Sweeps by meaning, of the hidden states and of the baselines (may be empty).

    Returns:
        A row a permuted meaning: `meaning`, `label_set`, `site`, `permuted_site`, `true`, `permuted`, `difference`, `low`, `high`, for each
        baseline its own `difference` and the `excess` (difference of differences) with its ends, and the `outcome`.

    Raises:
        ValueError: sweeps that are not of the same rows.
    """
    rows = []
    for meaning, result in model.items():
        if meaning == TRUE:
            continue
        _check_paired([model[TRUE], result, *(plain[m] for m in (TRUE, meaning) if plain)], label_set)
        site, other = (one.best(label_set, "accuracy").site for one in (model[TRUE], result))
        true, permuted = (accuracy(one, label_set, at) for one, at in ((model[TRUE], site), (result, other)))
        draws = true[1] - permuted[1]
        low, high = paired_interval(draws)
        row = {
            "meaning": meaning, "label_set": label_set, "site": site, "permuted_site": other, "true": true[0],
            "permuted": permuted[0], "difference": true[0] - permuted[0], "low": low, "high": high,
        }  # fmt: skip
        for name in BASELINES if plain else ():
            here, there = (accuracy(plain[m], label_set, name) for m in (TRUE, meaning))
            ends = paired_interval(draws - (here[1] - there[1]))
            row |= {
                f"{name}: true": here[0], f"{name}: permuted": there[0],
                f"{name}: excess": row["difference"] - (here[0] - there[0]),
                f"{name}: low": ends[0], f"{name}: high": ends[1],
            }  # fmt: skip
        row["outcome"] = outcome(low, high, [row[f"{name}: low"] for name in BASELINES] if plain else [])
        rows.append(row)
    return pd.DataFrame(rows)


def outcome(low: float, high: float, excess_low: Sequence[float]) -> str:
    """Which of `OUTCOMES` an interval of the difference is, given the lower ends of the excess over each baseline."""
    if high < 0:
        return OTHER
    if not low > 0:
        return SAME
    return READ if all(end > 0 for end in excess_low) else EASIER


def accuracy(result: pk.SweepResult, label_set: str, site: str) -> tuple[float, np.ndarray]:
    """Accuracy on test at a site, mean over targets, and its bootstrap draws `[draw]`."""
    frame = result.to_frame()
    here = frame[
        (frame.label_set == label_set) & (frame.site == site) & (frame.metric == "accuracy") & (frame.data == "test")
        & (frame.source == "model") & (frame.target == "mean")
    ]  # fmt: skip
    draws = result.draws[label_set]["accuracy"][result.sites.index(site)]
    return float(here.value.iloc[0]), draws.astype(np.float64)


def _check_paired(results: Sequence[pk.SweepResult], label_set: str) -> None:
    seen = {
        (r.manifest["seed"], r.manifest["arguments"]["n_boot"], *sorted(r.label_set(label_set).rows.items()))
        for r in results
    }
    if len(seen) > 1:
        raise ValueError(
            f"sweeps of {label_set!r} are not of the same rows with the same draws, so that no pairs can be made: {sorted(map(str, seen))}. "
            "Sweep one store with one seed and one number of draws, and labels that are defined at the same words"
        )
