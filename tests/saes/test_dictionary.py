"""Names from labels: planted conjunctions are said, noise gets no name, the search is what a slow one finds."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import false_discovery_control
from sklearn.metrics import f1_score

import saes
from probekit.data import Dataset, LabelSet
from saes.naming.judging import Claim, controlled, judge, nearest_features
from saes.scoring.columns import Columns
from saes.scoring.conjunctions import Search
from saes.scoring.feature_scores import halves


class Made:
    """Feature activations made by hand, with what naming reads of a `SparseFeatures`."""

    def __init__(self, dense: np.ndarray, each: int = 10) -> None:
        self.matrix = sparse.csc_array(dense.astype(np.float32))
        self.width = dense.shape[1]
        self.sequence = np.arange(len(dense)) // each
        self.position = np.arange(len(dense)) % each
        self.item = np.arange(len(dense))
        self.prefix = np.arange(len(dense)).astype(np.uint64)


class Apart:
    """An SAE whose decoder vectors are orthogonal: no feature is nearer than another."""

    def __init__(self, width: int) -> None:
        self.W_dec = torch.eye(width)


def named(made: Made, labels: LabelSet, **options):
    return saes.name(Apart(made.width), made, labels, **options)


def labels_of(values: np.ndarray) -> LabelSet:
    names = tuple("ABCDEFGHIJ"[: values.shape[1]])
    return LabelSet("seen", values.astype(int), "binary", "token", ("no", "yes"), names)


def noise(seed: int, n: int = 2000, width: int = 20, labels: int = 8, share: float = 0.3, rate: float = 0.1):
    rng = np.random.default_rng(seed)
    dense = (rng.random((n, width)) < rate) * rng.random((n, width))
    return Made(dense), labels_of(rng.random((n, labels)) < share)


ANYTHING = {"least_precision": 0, "least_recall": 0, "least_accuracy": 0}


def test_planted_names_are_given_and_nothing_else():
    rng = np.random.default_rng(0)
    seen = rng.random((8000, 8)) < 0.4
    means = [seen[:, 0], seen[:, 1] & seen[:, 2], seen[:, 3] & seen[:, 4] & seen[:, 5]]
    dense = (rng.random((8000, 12)) < 0.05) * 0.5 * rng.random((8000, 12))
    for k, mask in enumerate(means):
        dense[:, k] += mask * (1 + rng.random(8000))  # noise below: the threshold has to be found
    dense[:, 3] = seen[:, 6] * (rng.random(8000) < 0.1) + (rng.random(8000) < 0.2)  # says little about G
    names = named(Made(dense), labels_of(seen))
    assert [(n.feature, n.text) for n in names] == [
        (0, "A is yes"),
        (1, "B is yes and C is yes"),
        (2, "D is yes and E is yes and F is yes"),
    ]
    for name in names:
        assert name.kind == "precise"
        assert name.evidence.f1 > 0.97
        assert name.evidence.precision_low <= name.evidence.precision
        assert name.evidence.q < 1e-6
    assert names[3] is None
    with pytest.raises(IndexError):
        names[12]


def test_noise_gets_no_name_even_when_anything_may_count():
    some = [len(named(*noise(seed), **ANYTHING)) > 0 for seed in range(20)]
    assert np.mean(some) <= 0.15


def clustered_noise(seed: int) -> tuple[Made, LabelSet]:
    """Features and labels that know nothing of each other, and that are each nearly the same all through a sequence."""
    rng = np.random.default_rng(seed)
    sequence = np.arange(3000) // 30
    lively, often = rng.beta(0.2, 0.8, (100, 12))[sequence], rng.beta(0.3, 0.5, (100, 5))[sequence]
    dense = (rng.random((3000, 12)) < lively) * (0.5 + rng.random((3000, 12)))
    return Made(dense, each=30), labels_of(rng.random((3000, 5)) < often)


def test_noise_that_is_alike_all_through_a_sequence_gets_no_name():
    some = [len(named(*clustered_noise(seed), **ANYTHING)) > 0 for seed in range(20)]
    assert np.mean(some) <= 0.2


@pytest.mark.slow
def test_noise_alike_all_through_a_sequence_gets_names_no_more_often_than_promised_over_200_runs():
    some = [len(named(*clustered_noise(seed), **ANYTHING)) > 0 for seed in range(200)]
    assert np.mean(some) <= 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5


def test_names_that_say_never_and_always_score_one_half():
    rng = np.random.default_rng(0)
    made, labels = Made(rng.random((2000, 3)) * (rng.random((2000, 3)) < 0.3)), labels_of(rng.random((2000, 2)) < 0.4)
    _, report, _ = halves(made, labels)
    rows = len(report.rows)
    neighbours = nearest_features(Apart(3))
    claims = [Claim(0, 0.1, lambda said=said: (np.full(rows, said), None)) for said in (False, True)]
    for evidence in judge(report, claims, neighbours):
        assert evidence.balanced_accuracy == evidence.hard_accuracy == 0.5
        assert evidence.p >= 0.5


def test_labels_that_hold_nearly_everywhere_name_no_noise():
    many = [noise(seed, n=8000, width=60, labels=8, share=0.95, rate=0.02) for seed in range(8)]
    assert np.mean([len(named(*made, **ANYTHING)) > 0 for made in many]) <= 0.25


def test_a_label_that_holds_nearly_everywhere_is_no_name_however_well_it_covers():
    rng = np.random.default_rng(0)
    seen = rng.random((8000, 3)) < 0.95
    dense = (rng.random((8000, 4)) < 0.3) * rng.random((8000, 4))
    dense[:, 0] *= seen[:, 0]  # beyond chance: never fires where A does not hold
    assert len(named(Made(dense), labels_of(seen), least_accuracy=0.5)) == 1
    assert len(named(Made(dense), labels_of(seen))) == 0


@pytest.mark.slow
def test_noise_gets_names_no_more_often_than_promised_over_200_runs():
    small = [noise(seed, n=600, width=12, labels=5) for seed in range(200)]
    given = [len(named(*made, **ANYTHING)) > 0 for made in small]
    assert np.mean(given) <= 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5


def weak_ties_and_noise(seed: int) -> tuple[Made, LabelSet]:
    """300 features with a weak tie to label A, true and worth no name, and 300 that fire at random at eight rows of 2,000."""
    rng = np.random.default_rng(seed)
    seen = rng.random((2000, 6)) < 0.4
    tied = rng.random((2000, 300)) < np.where(seen[:, :1], 0.30, 0.15)
    dense = np.zeros((2000, 600))
    dense[:, :300] = tied
    for feature in range(300, 600):
        dense[rng.choice(2000, 16, replace=False), feature] = 1
    return Made(dense), labels_of(seen)


def test_weak_associations_make_no_room_for_false_names():
    """The share that is promised is of the names given, and not of the associations found before asking what they are worth."""
    false, before = 0, 0
    for seed in range(10):
        made, labels = weak_ties_and_noise(seed)
        limits = {"least_precision": 0.8, "least_recall": 0, "least_accuracy": 0.7}
        false += len(named(made, labels, seed=seed, **limits))  # no name is worth giving: any that is given is false
        found = named(made, labels, seed=seed, false_names=1.0, **limits)
        every = named(made, labels, seed=seed, false_names=1.0, least_precision=0, least_recall=0, least_accuracy=0)
        p = np.array([name.evidence.p for name in every])
        corrected = dict(zip([n.feature for n in every], false_discovery_control(p), strict=True))
        before += sum(corrected[name.feature] <= 0.05 for name in found)
    assert before > 5  # what correcting first and asking afterwards would have given
    assert false <= 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 5)), max_size=30))
def test_q_is_the_share_of_false_names_that_a_slow_count_gives(claims):
    p, enough, feature = (np.array([claim[i] for claim in claims], kind) for i, kind in enumerate((float, bool, int)))
    counted = np.where(enough, p, 1.0)

    def share(limit: float) -> float:
        named_features = len({f for f, one in zip(feature, counted, strict=True) if one <= limit})
        return len(claims) * limit / named_features

    slow = [min([1.0, *(share(limit) for limit in counted if limit >= own)]) for own in counted]
    assert controlled(p, enough, feature).tolist() == pytest.approx(slow)


def test_with_one_claim_a_feature_that_all_say_enough_q_is_benjamini_and_hochbergs():
    p = np.random.default_rng(0).random(50) ** 3
    q = controlled(p, np.ones(50, bool), np.arange(50))
    assert q == pytest.approx(false_discovery_control(p))
    assert controlled(np.array([]), np.array([], bool), np.array([], int)).size == 0


def test_a_split_that_came_with_the_data_is_kept_to():
    """A feature that says A in train and B in test is named by what it says in test, if at all."""
    rng = np.random.default_rng(0)
    seen = rng.random((4000, 2)) < 0.4
    part = np.array(["train", "valid", "test", "ood"])[np.arange(400) % 4]
    dense = np.where(np.isin(part, ("train", "valid"))[np.arange(4000) // 10], seen[:, 0], seen[:, 1])[:, None] * 1.0
    tokens = tuple(np.arange(10, dtype=np.int32) + 10 * i for i in range(400))
    data = Dataset("made", tokens=tokens, labels={"seen": labels_of(seen)}, split=part)
    found = named(Made(dense), data)
    assert len(found) == 0
    assert found.halved == "split"
    choose, report, _ = halves(Made(dense), data)
    assert set(part[choose.sequence]) == {"train", "valid"}
    assert set(part[report.sequence]) == {"test"}
    only = replace(data, split=np.array(["train", "ood"] * 200), groups=np.arange(400) // 4)
    choose, report, _ = halves(Made(dense), only)  # half of train is reported on, whole groups of it
    assert (choose.sequence % 2 == 0).all()
    assert (report.sequence % 2 == 0).all()
    assert not set(choose.group) & set(report.group)
    assert 0.8 < len(choose.rows) / len(report.rows) < 1.25
    with pytest.raises(ValueError, match="no row marked 'train'"):
        halves(Made(dense), replace(data, split=np.array(["test"] * 400)))


def test_groups_given_with_label_sets_stay_in_one_half():
    rng = np.random.default_rng(0)
    seen = rng.random((4000, 2)) < 0.4
    groups = np.arange(400) // 20
    found = named(Made(seen * 1.0), labels_of(seen), groups=groups)
    assert found.halved == "groups"
    assert found[0].evidence.p > named(Made(seen * 1.0), labels_of(seen))[0].evidence.p  # ten groups say less than 200


@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_what_trying_all_conjunctions_finds(seed):
    rng = np.random.default_rng(seed)
    positive = rng.random((150, 6)) < 0.5
    value = np.round(
        (positive[:, seed % 6] & positive[:, 5 - seed]) * rng.random(150) + 0.3 * (rng.random(150) < 0.3), 1
    )
    search = Search(sparse.csc_array(value[:, None].astype(np.float32)), Columns((), positive, None))
    best = search.of(0, np.arange(6))[0]
    slow = max(
        f1_score(positive[:, list(c)].all(1), value.astype(np.float32) >= t)
        for size in (1, 2, 3)
        for c in itertools.combinations(range(6), size)
        for t in np.unique(value.astype(np.float32)[value > 0])
    )
    assert slow - 0.0101 <= best.f1 <= slow + 1e-9
    assert (
        abs(f1_score(positive[:, list(best.columns)].all(1), value.astype(np.float32) >= best.threshold) - best.f1)
        < 1e-9
    )


def test_names_are_saved_and_read(tmp_path):
    rng = np.random.default_rng(0)
    seen = rng.random((2000, 3)) < 0.4
    names = named(Made(seen * 1.0), labels_of(seen))
    assert len(names) == 3
    names.save(tmp_path / "names.jsonl")
    again = saes.Names.load(tmp_path / "names.jsonl")
    assert again == names
    assert list(again.to_frame().text) == ["A is yes", "B is yes", "C is yes"]
    (tmp_path / "other.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="no names"):
        saes.Names.load(tmp_path / "other.jsonl")


def test_labels_that_are_not_defined_everywhere_count_only_where_they_are():
    rng = np.random.default_rng(0)
    seen = rng.random((4000, 3)) < 0.4
    known = rng.random(4000) < 0.5
    dense = np.zeros((4000, 1))
    dense[:, 0] = np.where(known, seen[:, 0], rng.random(4000) < 0.5)  # fires at random where A is not defined
    values = seen.astype(int)
    values[~known, 0] = -1
    names = named(Made(dense), labels_of(values))
    assert [n.text for n in names] == ["A is yes"]
    assert names[0].evidence.precision == 1.0


def test_names_know_how_their_sequences_were_halved(tmp_path):
    rng = np.random.default_rng(0)
    seen = rng.random((2000, 3)) < 0.4
    names = named(Made(seen * 1.0), labels_of(seen), seed=5)
    assert (names.seed, names.halved) == (5, "sequences")
    names.save(tmp_path / "names.jsonl")
    assert saes.Names.load(tmp_path / "names.jsonl").seed == 5


def test_a_name_is_no_control_of_itself():
    rng = np.random.default_rng(0)
    seen = rng.random((2000, 1)) < 0.4
    names = named(Made(np.repeat(seen, 2, axis=1) * 1.0), labels_of(seen))
    assert [name.text for name in names] == ["A is yes", "A is yes"]
    assert all(np.isnan(name.evidence.shuffled) for name in names)
