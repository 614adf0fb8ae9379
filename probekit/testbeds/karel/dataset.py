"""Karel programs as data for probes: tokens, exact labels after every word, and what the words alone tell."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from probekit.data import Dataset, LabelSet
from probekit.testbeds.karel.labels import label_names, label_set, runs_of
from probekit.testbeds.karel.language import WORDS, Dialect
from probekit.testbeds.karel.problems import EXAMPLES, Problems, join_problems, random_problems
from probekit.testbeds.karel.programs import LENGTHS, Part, behaviours
from probekit.testbeds.karel.tokens import Encoding, encode, is_word, split_sequences

WORLD_VERSION = "1"
SAMPLE_SEEDS = 0x6A7E15A
"""First word of every seed of `sample_problems`; training and its checks use other first words."""
_PROBLEMS_A_DRAW = {"actions": 1024, "control": 64}
_HISTORY = 3

LABEL_SETS = label_names()
"""Names of the label sets of every Karel dataset; see `problems_dataset`."""


def sample_problems(
    n: int,
    *,
    seed: int,
    part: Part = "test",
    unseen: int = 0,
    dialect: Dialect = "actions",
    lengths: tuple[int, int] = LENGTHS,
    shown: int = EXAMPLES,
) -> Problems:
    """Random problems of one part, as `karel-mini` was trained on (but for its part `train`).

    The first problems of a larger sample with the same seed are the problems of a smaller one.

    Args:
        n: Number of problems.
        seed: Any integer from 0 on.
        part: `train`, `valid` or `test`: parts share no behaviour, and so no program, whatever the seeds.
        unseen: Further examples of each program, which the specification does not show.
        dialect, lengths, shown: As for `random_problems`.

    Raises:
        ValueError: `n` below 1, a negative seed, or a part that there is not.
    """
    if n < 1 or seed < 0:
        raise ValueError(f"sample_problems needs n >= 1 and seed >= 0, got n={n}, seed={seed}")
    a_draw = _PROBLEMS_A_DRAW[dialect]
    draws = [
        random_problems(
            a_draw, np.random.default_rng([SAMPLE_SEEDS, seed, number]), part, unseen=unseen, dialect=dialect,
            lengths=lengths, shown=shown,
        )
        for number in range(-(-n // a_draw))
    ]  # fmt: skip
    return join_problems(draws).rows(slice(0, n))


def sample_programs(n: int, *, seed: int, part: Part = "test", encoding: Encoding = "facts") -> Dataset:
    """`sample_problems` as a dataset, with the labels of `problems_dataset`.

    Raises:
        ValueError: `n` below 1, a negative seed, or a part or encoding that there is not.
    """
    return problems_dataset(
        sample_problems(n, seed=seed, part=part), encoding=encoding, name=f"karel-{part}-{n}-{seed}",
        facts={"source": "random programs", "seed": seed, "part": part},
    )  # fmt: skip


def problems_dataset(
    problems: Problems,
    *,
    encoding: Encoding = "facts",
    example: int = 0,
    meaning: Mapping[str, str] | None = None,
    name: str = "karel-problems",
    facts: Mapping[str, object] | None = None,
) -> Dataset:
    """Given problems as a dataset.

    A sequence is a specification and its program, as `tokens` writes them. Programs of the same behaviour are a group.

    The labels say what is true in the world of one example *after* a word of the program; tokens of the specification,
    `<program>` and `<end>` have none (-1). Each comes at the offsets -2 to +2: `facing+1` is the facing after the next
    action, `facing-1` the one before this action. The paper counts otherwise: its offset 0 pairs a state with the hidden
    state that *generated* the word, which is `+1` here. Where that state would lie before the input or after the end, the
    label is not defined (-1).

    | label set | classes | targets |
    |---|---|---|
    | `facing` | north, east, south, west | one |
    | `position` | 1 to 6 | row, column: where the robot is, from the top left |
    | `turned` | ahead, right, back, left | one: where it faces, seen as it faced at the start |
    | `turn_to_go` | ahead, right, back, left | one: where it will face at the end, seen as it faces now |
    | `gone` | -3 to +3 | ahead, right: steps from the start, seen as it faced there; beyond 3 counts as 3 |
    | `to_go` | -3 to +3 | ahead, right: steps to where it will stand at the end, seen as it faces now |
    | `from_start` | -5 to +5 | row, column: its position minus that at the start |
    | `from_end` | -5 to +5 | row, column: its position minus that at the end |
    | `wall_ahead` | no, yes | one: whether the next cell in its facing is wall |
    | `walls_around` | no, yes | north, east, south, west: whether the cell there is wall |
    | `marker_below` | no, yes | one: whether there are markers where it stands |

    `facing`, `position`, `from_start`, `from_end` and the walls are the labels of Jin & Rinard (arXiv 2305.11169), who read them in the
    first example's world, as is done here by default. `turned`, `turn_to_go`, `gone` and `to_go` say the same in the robot's own terms, and
    are therefore the same in all examples of a problem (under the true meaning).

    The surface features are what can be seen of the program so far without the model: the last three words (one-hot) and how
    often each word has occurred; zeros at other tokens.

    Args:
        problems: What to make sequences of.
        encoding: Of the specification.
        example: In which example's world labels hold.
        meaning: The semantic intervention of the paper: what each action is to mean instead, for instance
            `{"turn_left": "turn_right", "turn_right": "turn_left"}`. Tokens stay as they are; the programs run again
            with the new meaning, from the same inputs, and the labels are of these runs. There an action that
            cannot be carried out does nothing, because otherwise most programs would have no states.
        name: Of the dataset.
        facts: For manifests.

    Raises:
        IndexError: there is no such example.
        ValueError: a meaning that is no permutation of actions; an encoding that there is not.
    """
    runs = runs_of(problems, example, meaning)
    tokens, lengths = encode(problems, encoding)

    def labelled(label: str) -> LabelSet:
        return label_set(label, problems, runs, encoding)

    told = {"world": "karel", "version": WORLD_VERSION, "encoding": encoding, "example": example}
    told |= {"meaning": dict(meaning)} if meaning else {}
    return Dataset(
        name,
        tokens=split_sequences(tokens, lengths),
        groups=np.unique(behaviours(problems.programs), return_inverse=True)[1],
        labels={label: partial(labelled, label) for label in LABEL_SETS},
        surface=partial(surface_features, problems.programs, tokens, lengths),
        facts=told | dict(facts or {}),
    )


def program_rows(data: Dataset) -> np.ndarray:
    """`[token]` bool over all tokens of a Karel dataset: words of programs, the only tokens with labels.

    `probekit.capture(model, data, rows=program_rows(data))` captures these alone.
    """
    if data.tokens is None:
        raise TypeError(f"dataset {data.name!r} holds texts, not Karel tokens")
    return is_word(np.concatenate(data.tokens))


def surface_features(programs: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`[token, 4 * words]` float32: the last three words, one-hot, and counts of the words so far; 0 outside programs."""
    place, words = np.nonzero(programs >= 0), len(WORDS)
    one_hot = np.zeros((*programs.shape, words), np.float32)
    one_hot[(*place, programs[place])] = 1
    earlier = [one_hot]
    for back in range(1, _HISTORY):
        earlier.append(np.pad(one_hot, ((0, 0), (back, 0), (0, 0)))[:, : programs.shape[1]])
    so_far = np.concatenate([*earlier, one_hot.cumsum(1)], axis=-1)
    there = np.arange(tokens.shape[1]) < lengths[:, None]
    features = np.zeros((int(lengths.sum()), so_far.shape[-1]), np.float32)
    features[is_word(tokens)[there]] = so_far[place]
    return features
