"""Scores with held-out thresholds: planted truth is found, noise is not, and intervals are of sequences."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

import saes
from probekit.activations import prefix_hashes
from probekit.data import Dataset, LabelSet
from saes.scoring.columns import columns_at, columns_of
from saes.scoring.feature_scores import halves


class Made:
    """Feature activations made by hand, with what `score` reads of a `SparseFeatures`."""

    def __init__(self, dense: np.ndarray, each: int = 10) -> None:
        self.matrix = sparse.csc_array(dense.astype(np.float32))
        self.sequence = np.arange(len(dense)) // each
        self.item = np.arange(len(dense))
        self.position = self.item % each
        self.prefix = np.arange(len(dense)).astype(np.uint64)


def planted(seed: int = 0, n: int = 6000, features: int = 20):
    """Features 0-3 fire where labels 0-3 hold (feature 3 in one row of three), the others at random."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 6)) < 0.2
    dense = (rng.random((n, features)) < 0.1) * rng.random((n, features))
    for k in range(4):
        shown = labels[:, k] & (rng.random(n) < (0.33 if k == 3 else 1))
        dense[:, k] = shown * (1 + rng.random(n))
    return Made(dense), LabelSet("seen", labels.astype(int), "binary", "token", ("no", "yes"))


def test_planted_features_are_found_on_rows_that_did_not_choose_them():
    features, labels = planted()
    found = saes.score(features, labels)
    assert found.best_feature[:4].tolist() == [0, 1, 2, 3]
    frame = found.to_frame()
    assert frame.f1[:3].min() > 0.99
    assert frame.precision[3] > 0.99
    assert 0.28 < frame.recall[3] < 0.38
    assert frame.recall_low[3] < 0.33 < frame.recall_high[3] < frame.recall_low[3] + 0.15
    assert (found.q[range(4), range(4)] < 1e-6).all()
    np.testing.assert_allclose(frame.effect, 2 * frame.auroc - 1)
    value, low, high = found.coverage()
    assert low < value < high
    assert abs(value - found.f1[found.best_feature, range(6)].mean()) < 1e-12


def test_random_features_find_nothing_at_the_promised_rate():
    discoveries = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        dense = (rng.random((2000, 15)) < 0.1) * rng.random((2000, 15))
        labels = LabelSet("noise", (rng.random((2000, 8)) < 0.3).astype(int), "binary", "token", ("no", "yes"))
        discoveries.append(bool((saes.score(Made(dense), labels, seed=seed).q <= 0.05).any()))
    assert np.mean(discoveries) <= 0.15  # 0.05 promised


def test_rows_whose_prefix_was_seen_are_dropped():
    features, labels = planted()
    place = np.arange(6000) % 10  # the first two rows of all sequences are the same
    features.prefix = np.where(place < 2, place, np.arange(6000) + 10).astype(np.uint64)
    found = saes.score(features, labels)
    assert found.dropped == 2 * 300
    assert found.rows == 3000 - found.dropped


def test_a_column_that_never_holds_and_a_feature_that_never_fires_are_not_defined_and_not_found():
    features, _ = planted()
    features.matrix = sparse.csc_array(np.c_[features.matrix.toarray(), np.zeros(6000)].astype(np.float32))
    found = saes.score(features, LabelSet("rare", np.zeros((6000, 1), int), "binary", "token", ("no", "yes")))
    assert np.isnan(found.auroc).all()
    assert (found.q > 0.05).all()
    assert np.isnan(found.precision[-1]).all()
    assert (found.f1[-1] == 0).all()
    found.to_frame()


def test_too_few_sequences_are_refused():
    features, labels = planted()
    features.sequence = np.zeros(6000, int)
    with pytest.raises(ValueError, match="cannot be halved"):
        saes.score(features, labels)


def test_precise_thresholds_are_the_lowest_that_will_do():
    from saes.scoring.columns import Columns
    from saes.scoring.scores import precise_thresholds

    rng = np.random.default_rng(0)
    value = np.round(rng.random(400) * (rng.random(400) < 0.6), 2).astype(np.float32)
    positive = np.stack([rng.random(400) < value, rng.random(400) < 0.5, value > 0.3], 1)
    defined = rng.random((400, 3)) < 0.8
    for mask in (None, defined):
        shown = positive if mask is None else positive & mask
        got = precise_thresholds(sparse.csc_array(value[:, None]), Columns((), shown, mask), 0.9, 5)[0]
        for c in range(3):
            known = slice(None) if mask is None else mask[:, c]
            good = [
                t
                for t in np.unique(value[value > 0])
                if shown[known, c][value[known] >= t].sum() >= 5 and shown[known, c][value[known] >= t].mean() >= 0.9
            ]
            assert got[c] == (min(good) if good else np.inf)


def test_labels_are_reconstructed_from_their_detectors_only():
    features, labels = planted()
    found = saes.reconstruct(features, labels)
    assert found.f1[:3].min() > 0.99
    assert 0.4 < found.f1[3] < 0.6  # its detector sees one row in three
    assert found.f1[4:].max() < 0.1
    assert found.low < found.mean_f1 < found.high
    assert (found.detectors[:4] >= 1).all()
    np.testing.assert_allclose(found.mean_f1, found.f1.mean())
    rng = np.random.default_rng(1)
    nothing = saes.reconstruct(Made((rng.random((6000, 20)) < 0.1) * rng.random((6000, 20))), labels)
    assert nothing.mean_f1 < 0.05
    with pytest.raises(ValueError, match="precision must be"):
        saes.reconstruct(features, labels, precision=95)


def test_columns_of_one_class_are_in_neither_the_mean_nor_its_interval():
    features, labels = planted()
    few = LabelSet("seen", labels.values[:, :2], "binary", "token", ("no", "yes"))
    rare = np.zeros((6000, 3), int)
    choose, report, _ = halves(features, few)
    rare[choose.rows[:60], 0] = 1  # on the half that chooses it holds; its detector fires on the other half, too
    rare[:, 2] = 1
    dense = np.c_[features.matrix.toarray(), np.zeros(6000)]
    dense[np.r_[choose.rows[:60], report.rows[:40]], -1] = 5
    features.matrix = sparse.csc_array(dense.astype(np.float32))
    more = LabelSet("seen", np.c_[few.values, rare], "binary", "token", ("no", "yes"))
    for found, other in (
        (saes.score(features, few).coverage(), saes.score(features, more).coverage()),
        *[[(r.mean_f1, r.low, r.high) for r in (saes.reconstruct(features, one) for one in (few, more))]],
    ):
        np.testing.assert_allclose(found, other)
        assert other[1] < other[0] < other[2]
    scores, board = saes.score(features, more), saes.reconstruct(features, more)
    assert scores.occurs.tolist() == [True, True, False, False, False]
    assert board.detectors[2] > 0
    assert np.isnan(board.f1).tolist() == (~scores.occurs).tolist()
    never = LabelSet("never", np.zeros((6000, 2), int), "binary", "token", ("no", "yes"))
    assert np.isnan(saes.score(features, never).coverage()).all()
    assert np.isnan(saes.reconstruct(features, never).mean_f1)


def test_a_label_that_a_draw_never_holds_does_not_count_as_zero_in_it():
    features, labels = planted()
    _, report, _ = halves(features, labels)
    values = labels.values[:, :2].copy()
    values[:, 1] = 0
    values[report.rows[[0, 1000]], 1] = 1  # in two sequences of 300: one draw in seven has neither
    dense = features.matrix.toarray()
    dense[:, 4] = values[:, 1]
    dense[report.rows[2000], 4] = 1
    choose = np.setdiff1d(np.arange(6000), report.rows)[:20]
    values[choose, 1] = dense[choose, 4] = 1
    features.matrix = sparse.csc_array(dense)
    frame = saes.score(features, LabelSet("seen", values, "binary", "token", ("no", "yes"))).to_frame()
    assert frame.feature.tolist() == [0, 4]
    assert frame.f1_low[1] >= 0.3


def test_groups_are_in_one_half_and_drawn_together():
    features, _ = planted()
    rng = np.random.default_rng(0)
    author = np.repeat(np.arange(30), 20)  # of 600 sequences
    of_row = author[features.sequence]
    label = rng.permutation(np.arange(30) % 2)[author]
    labels = LabelSet("lab", label, "binary", "sequence", ("no", "yes"))
    tokens = tuple(np.array([i]) for i in range(600))
    data = Dataset("books", tokens=tokens, labels={"lab": labels}, groups=author)
    for given, groups in ((labels, author), (data, None), (labels, author.astype(str))):
        choose, report, _ = halves(features, given, 0, groups)
        assert not set(of_row[choose.rows]) & set(of_row[report.rows])
        assert len(np.unique(choose.cluster)) == len(np.unique(report.cluster)) == 15
    alone, by_default = (halves(features, labels, 3, groups)[0].rows for groups in (np.arange(600), None))
    np.testing.assert_array_equal(alone, by_default)
    # One feature an author: by sequence, those of the authors with the label are all beyond chance.
    features.matrix = sparse.csc_array(np.eye(30, dtype=np.float32)[of_row])
    assert (saes.score(features, labels).q <= 0.05).sum() > 10
    for found in (saes.score(features, labels, groups=author), saes.score(features, data)):
        assert (found.q > 0.05).all()
    assert saes.reconstruct(features, labels).mean_f1 > 0.9
    assert saes.reconstruct(features, labels, groups=author).mean_f1 == 0
    with pytest.raises(ValueError, match="1 group of sequences cannot be halved"):
        saes.score(features, labels, groups=np.zeros(600, int))


def encoded(tokens, captured: bool):
    """Features of every second token, from a store or from arrays, with what `columns_at` reads of them."""
    lengths = np.array([len(t) for t in tokens])
    sequence, flat = np.repeat(np.arange(len(tokens)), lengths), np.concatenate(tokens)
    position = np.concatenate([np.arange(n) for n in lengths])
    rows = np.arange(len(flat)) if not captured else np.flatnonzero(position % 2)
    return SimpleNamespace(
        sequence=sequence[rows], position=position[rows], item=rows, prefix=prefix_hashes(flat, lengths)[rows],
        manifest=SimpleNamespace(source={"tokens": "0123" if captured else ""}),
    )  # fmt: skip


def test_labels_of_other_data_are_refused():
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 50, 4 + i % 3) for i in range(12)]
    total = sum(map(len, tokens))

    def data(tokens):
        values = rng.integers(0, 2, sum(map(len, tokens)))
        return Dataset("d", tokens=tuple(tokens), labels={"x": LabelSet("x", values, "binary", "token", ("no", "yes"))})

    stored, arrays = encoded(tokens, True), encoded(tokens, False)
    assert len(columns_at(stored, data(tokens))) == 1
    other = [t.copy() for t in tokens]
    other[5][0] += 1
    shuffled, short = [tokens[1], tokens[0], *tokens[2:]], tokens[:-1]
    for wrong in (other, shuffled, short, [t[:-1] for t in tokens]):
        with pytest.raises(ValueError, match="not what the features were encoded from"):
            columns_at(stored, data(wrong))
    for level, right in (("token", total), ("sequence", 12)):
        for many in (right - 1, right + 1):
            values = LabelSet("x", rng.integers(0, 2, many), "binary", level, ("no", "yes"))
            with pytest.raises(ValueError, match="they are of other data"):
                columns_at(arrays, values)
        values = LabelSet("x", rng.integers(0, 2, right), "binary", level, ("no", "yes"))
        assert len(columns_at(arrays, values)) == 1
    # Of a store, and of arrays with gaps, it is not known how many tokens follow the last row.
    longer = LabelSet("x", np.zeros(total + 5, int), "binary", "token", ("no", "yes"))
    gaps = encoded(tokens, True)
    gaps.manifest.source["tokens"] = ""
    assert len(columns_at(stored, longer)) == len(columns_at(gaps, longer)) == 1


def test_columns_that_would_read_the_same_name_their_label_sets():
    values = np.array([[0, 1], [1, 0]])
    sets = [
        LabelSet(name, values, "binary", "token", ("no", "yes"), targets)
        for name, targets in (("before", ("A1", "B1")), ("after", ("A1", "C1")))
    ]
    rows = np.array([0, 1])
    both = columns_of(sets, rows, rows).names
    assert [str(name) for name in both] == ["before: A1 is yes", "B1 is yes", "after: A1 is yes", "C1 is yes"]
    alone = columns_of(sets[0], rows, rows).names
    assert [str(name) for name in alone] == ["A1 is yes", "B1 is yes"]
    assert alone == both[:2], "a column is the same whatever stands beside it"


def test_intervals_of_the_auroc_hold_it_and_are_of_sequences():
    features, labels = planted(n=3000)
    found = saes.score(features, labels)
    frame = found.to_frame()
    assert (frame.auroc_low <= frame.auroc).all()
    assert (frame.auroc <= frame.auroc_high).all()
    assert (frame.auroc_high - frame.auroc_low)[3] > 0.02
    # Rows that are all alike within a sequence tell no more than one of them: the interval is as of so many sequences.
    rng = np.random.default_rng(0)
    short = 60
    label, noise = rng.random((short, 1)) < 0.4, rng.normal(0, 1, (short, 1))
    value = np.maximum(0, label + noise)
    wide = []
    for each in (1, 20):
        rows = np.repeat(np.concatenate([value, value], 1), each, 0)
        there = LabelSet("seen", np.repeat(label, each, 0).astype(int), "binary", "token", ("no", "yes"))
        one = saes.score(Made(rows, each), there).to_frame()
        wide.append(float((one.auroc_high - one.auroc_low).iloc[0]))
    assert wide[1] == pytest.approx(wide[0], rel=0.25)


def test_the_auroc_interval_covers_as_often_as_it_says():
    covered, truth = 0, 0.7602  # of a normal feature shifted by one: Phi(1 / sqrt 2)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        label = rng.random((240, 1)) < 0.5
        dense = np.concatenate([5 + label + rng.normal(size=(240, 1)), rng.random((240, 1))], 1)
        labels = LabelSet("seen", label.astype(int), "binary", "token", ("no", "yes"))
        frame = saes.score(Made(dense, 1), labels).to_frame(np.array([[0, 0]]))
        covered += int(frame.auroc_low[0] <= truth <= frame.auroc_high[0])
    assert 51 <= covered <= 60
