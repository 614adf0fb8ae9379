"""The semantic intervention: are the states that can be read those of the true meaning, or would any meaning do?

A probe that reads states after a program's words may do the interpreting itself: from a mere record of the words it could compute what
they do. Then it would compute as well what they *would* do if `turn_left` meant `turn_right`. So the actions' meaning is permuted, tokens
and hidden states stay, the programs run again, and probes are trained on the new states (Jin & Rinard, arXiv 2305.11169, section 4.3).

Three things make this less simple than it sounds.

- A permuted meaning may be harder whatever the model does, and a specification shows the outputs of the *true* meaning. So every difference is
  also taken beside baselines that compute no states: `words` (the last three words and counts of the words so far); `words and ends` (these, and how the run begins
  and ends, in the world and in the robot's own terms, as the specification shows it); `record` (all words so far in their places besides, and a thousand
  random functions of all that: some that no line could compute); and the hidden states of the same architecture with `random weights`.
- Some meanings are others in disguise: swapping the turns exchanges the classes left and right of `turned`, and nothing else. For each label set,
  meanings are left out whose classes are those of an earlier one under other names.
- Classes are not equally frequent under all meanings. What is compared is balanced accuracy, the mean over classes, whose chance level is the same under each.

`gone` is followed on an endless plane under every meaning, because in a world a permuted program runs into walls, which no record of the words could know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

import probekit as pk
from probekit.activations import ActivationStore, ArrayActivations
from probekit.probes.intervals import paired_interval
from probekit.testbeds import karel
from probekit.testbeds.karel.labels import FAR, seen_by
from probekit.testbeds.karel.programs import relative_path
from probekit.testbeds.karel.tokens import Encoding
from probekit.testbeds.karel.world import FACINGS, SIZE

TRUE = "true meaning"
MEANINGS: dict[str, dict[str, str]] = {
    TRUE: {},
    "turns swapped": {"turn_left": "turn_right", "turn_right": "turn_left"},
    "move and turn_left swapped": {"move": "turn_left", "turn_left": "move"},
    "move as turn_left as turn_right": {"move": "turn_left", "turn_left": "turn_right", "turn_right": "move"},
    "move as turn_right as turn_left": {"move": "turn_right", "turn_right": "turn_left", "turn_left": "move"},
}
"""What the actions are to mean. All keep the marker actions, so that a new meaning differs in how the robot moves. In the last two,
each of three actions takes the meaning of the next, and the last that of the first."""
BASELINES = ("words", "words and ends", "record", "random weights")
METRIC = "balanced_accuracy"
_FUNCTIONS = 1000

READ, EASIER, SAME, OTHER = (
    "states of the true meaning",
    "no more than without the model",
    "no difference",
    "against it",
)
OUTCOMES: dict[str, tuple[str, str]] = {
    READ: (
        "The true meaning is read better, and by more than from any baseline.",
        "The hidden states hold what the programs really do: a probe that did the interpreting itself would do it for any meaning, and "
        "neither a record of the words and ends nor a model with random weights shows as much.",
    ),
    EASIER: (
        "The true meaning is read better, but not by more than from a baseline.",
        "The true meaning is the easier one without a model that has learned anything. Nothing follows for the model.",
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


def told_under(problems: karel.Problems, encoding: Encoding, meaning: Mapping[str, str]) -> pk.Dataset:
    """The problems with the labels of a meaning, `gone` on an endless plane."""
    data = karel.problems_dataset(problems, encoding=encoding, meaning=meaning)
    row, column, _ = relative_path(karel.permute_actions(problems.programs, meaning))
    steps = np.clip(np.stack([-row, column], axis=-1)[:, 1:], -FAR, FAR) + FAR
    gone = data.label_set("gone")
    values = np.full_like(gone.values, -1)
    values[karel.program_rows(data)] = steps[problems.programs >= 0]
    return replace(data, labels={**data.labels, "gone": replace(gone, values=values)})


def renamed(one: pk.LabelSet, other: pk.LabelSet) -> bool:
    """Whether each class of one is a class of the other under another name, for every target."""
    for a, b in zip(one.values.T, other.values.T, strict=True):
        pairs = np.unique(np.stack([a, b]), axis=1).shape[1]
        if not pairs == len(np.unique(a)) == len(np.unique(b)):
            return False
    return True


def distinct(told: Mapping[str, pk.Dataset], label: str) -> list[str]:
    """The meanings under which a label set is not that of an earlier meaning with its classes renamed; the true one is the first."""
    found: list[str] = []
    for name, data in told.items():
        if not any(renamed(told[earlier].label_set(label), data.label_set(label)) for earlier in found):
            found.append(name)
    return found


def baseline_rows(
    problems: karel.Problems,
    data: pk.Dataset,
    store: ActivationStore,
    floor: ActivationStore | None = None,
    seed: int = 0,
) -> ArrayActivations:
    """The baselines in place of the store's sites: the same rows, with what can be told of them without what the model has learned.

    Args:
        problems: Whose sequences `data` holds.
        store: Of the rows `program_rows(data)`.
        floor: The same rows of the model with random weights; all its layers together are one baseline.
        seed: Of the random functions.
    """
    surface = data.surface_features()
    assert surface is not None
    words = np.asarray(surface, np.float32)[store.item]
    inputs, outputs = problems.example(0)
    poses = [one_hot(part, size) for world in (inputs, outputs) for part, size in _pose(world)]
    poses += [one_hot(part, size) for part, size in _way(inputs, outputs)]
    ends = np.concatenate(poses, axis=1)[store.sequence]
    known = np.concatenate([words, _history(problems, data)[store.item], ends], axis=1)
    rng = np.random.default_rng([seed, 0xBA5E])
    mix = rng.normal(size=(known.shape[1], _FUNCTIONS)).astype(np.float32)
    functions = np.maximum(known @ mix + 2 * rng.normal(size=_FUNCTIONS).astype(np.float32), 0)
    rows = {
        "words": words,
        "words and ends": np.concatenate([words, ends], axis=1),
        "record": np.concatenate([known, functions], axis=1),
    }
    if floor is not None:
        rows["random weights"] = np.concatenate([floor.read(site) for site in floor.sites], axis=1)
    return ArrayActivations(
        rows, sequence=store.sequence, position=store.position, token=store.token, prefix=store.prefix, item=store.item
    )


def _history(problems: karel.Problems, data: pk.Dataset) -> np.ndarray:
    """`[token, place * word]` float32: every word so far in its place; 0 outside programs."""
    programs, words = problems.programs, len(karel.ACTIONS)
    places = programs.shape[1]
    each = np.where((programs >= 0)[..., None], np.eye(words, dtype=np.float32)[np.maximum(programs, 0)], 0)
    so_far = (
        np.tril(np.ones((places, places), np.float32))[None, :, :, None] * each[:, None]
    )  # [problem, until, place, word]
    inside = karel.program_rows(data)
    found = np.zeros((len(inside), places * words), np.float32)
    found[inside] = so_far.reshape(len(programs), places, -1)[programs >= 0]
    return found


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
    floor: ActivationStore | None = None,
    more_of_true: Sequence[str] = (),
    controls: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame, pk.SweepResult]:
    """Probe the same hidden states under every meaning.

    Args:
        labels: Label sets to read under every meaning that does not only rename their classes.
        n_boot: Bootstrap draws.
        floor: Of the model with random weights, for the baseline of that name.
        more_of_true: Further label sets, of the true meaning only.
        controls: Whether to fit the controls of the sweep, under the true meaning.

    Returns:
        The frames of all sweeps with a column `meaning`, baselines as further sites of the source `baseline`; `differences`; and the sweep under the
        true meaning.
    """
    told = {name: told_under(problems, encoding, meaning) for name, meaning in MEANINGS.items()}
    kept = {label: distinct(told, label) for label in labels}
    bare = baseline_rows(problems, told[TRUE], store, floor)
    frames, model, plain = [], {}, {}
    for name, data in told.items():
        asked = [label for label in labels if name in kept[label]]
        wanted = list(dict.fromkeys((*asked, *(more_of_true if name == TRUE else ()))))
        if not wanted:
            continue
        model[name] = pk.sweep(
            store, data, labels=wanted, controls=controls and name == TRUE, n_boot=n_boot, progress=False
        )
        plain[name] = pk.sweep(bare, data, labels=wanted, controls=False, n_boot=n_boot, progress=False)
        frames.append(model[name].to_frame().assign(meaning=name))
        frames.append(plain[name].to_frame().assign(meaning=name, source="baseline"))
    compared = [
        differences(*({name: one[name] for name in kept[label]} for one in (model, plain)), label) for label in labels
    ]
    return pd.concat(frames, ignore_index=True), pd.concat(compared, ignore_index=True), model[TRUE]


def differences(
    model: Mapping[str, pk.SweepResult], plain: Mapping[str, pk.SweepResult], label_set: str
) -> pd.DataFrame:
    """Balanced accuracy under the true meaning minus that under each permuted one, in pairs, and the same less what a baseline shows.

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
        site, other = (one.best(label_set, METRIC).site for one in (model[TRUE], result))
        true, permuted = (accuracy(one, label_set, at, METRIC) for one, at in ((model[TRUE], site), (result, other)))
        draws = true[1] - permuted[1]
        low, high = paired_interval(draws)
        row = {
            "meaning": meaning, "label_set": label_set, "site": site, "permuted_site": other, "true": true[0],
            "permuted": permuted[0], "difference": true[0] - permuted[0], "low": low, "high": high,
        }  # fmt: skip
        baselines = plain[TRUE].sites if plain else ()
        for name in baselines:
            here, there = (accuracy(plain[m], label_set, name, METRIC) for m in (TRUE, meaning))
            ends = paired_interval(draws - (here[1] - there[1]))
            row |= {
                f"{name}: true": here[0], f"{name}: permuted": there[0],
                f"{name}: excess": row["difference"] - (here[0] - there[0]),
                f"{name}: low": ends[0], f"{name}: high": ends[1],
            }  # fmt: skip
        row["outcome"] = outcome(low, high, [row[f"{name}: low"] for name in baselines])
        rows.append(row)
    return pd.DataFrame(rows)


def outcome(low: float, high: float, excess_low: Sequence[float]) -> str:
    """Which of `OUTCOMES` an interval of the difference is, given the lower ends of the excess over each baseline."""
    if high < 0:
        return OTHER
    if not low > 0:
        return SAME
    return READ if all(end > 0 for end in excess_low) else EASIER


def accuracy(result: pk.SweepResult, label_set: str, site: str, metric: str = "accuracy") -> tuple[float, np.ndarray]:
    """Accuracy, or another metric, on test at a site, mean over targets, and its bootstrap draws `[draw]`."""
    frame = result.to_frame()
    here = frame[
        (frame.label_set == label_set) & (frame.site == site) & (frame.metric == metric) & (frame.data == "test")
        & (frame.source == "model") & (frame.target == "mean")
    ]  # fmt: skip
    draws = result.draws[label_set][metric][result.sites.index(site)]
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
