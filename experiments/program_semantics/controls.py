"""What a probe could learn by heart: random labels for every run of three words (Hewitt & Liang 2019).

The control task of `probekit.sweep` gives every *token* a label. Programs here have five tokens, of which a probe could learn any
labelling; runs of the last three words are about 150 types, as many as there are histories of three words in the baseline `words`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from meanings import accuracy

import probekit as pk
from probekit.probes.intervals import paired_interval
from probekit.testbeds import karel

WORDS = 3


def control_labels(problems: karel.Problems, data: pk.Dataset, like: str = "turned", seed: int = 0) -> pk.LabelSet:
    """A random class for each run of the last three words (fewer at the start), each class as likely as any other.

    Args:
        problems: Whose sequences `data` holds.
        like: Label set of `data` whose classes are taken.
    """
    labels = data.label_set(like)
    programs = problems.programs.astype(np.int64) + 1
    kinds = np.zeros_like(programs)
    for back in range(WORDS):
        kinds = kinds * (int(programs.max()) + 1) + np.pad(programs, ((0, 0), (back, 0)))[:, : programs.shape[1]]
    of_word = np.unique(kinds[programs > 0], return_inverse=True)[1]
    drawn = np.random.default_rng([seed, 0xC0]).integers(0, len(labels.classes), int(of_word.max()) + 1)
    values = np.full((len(labels.values), 1), -1, labels.values.dtype)
    values[karel.program_rows(data), 0] = drawn[of_word]
    return pk.LabelSet("control", values, labels.kind, "token", labels.classes, ("control",))


def selectivity(probes: pk.SweepResult, control: pk.SweepResult, label_set: str = "turned") -> pd.DataFrame:
    """A row a site: accuracy of the label set, that of the control, and their difference with its paired interval."""
    rows = []
    for site in probes.sites:
        (value, draws), (by_heart, others) = accuracy(probes, label_set, site), accuracy(control, "control", site)
        low, high = paired_interval(draws - others)
        rows.append(
            {"site": site, "accuracy": value, "control": by_heart, "selectivity": value - by_heart, "low": low, "high": high}
        )  # fmt: skip
    return pd.DataFrame(rows)
