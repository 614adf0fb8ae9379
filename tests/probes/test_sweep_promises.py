"""What a sweep promises of its controls, of groups in other files, of settings, and of a finished result."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import probekit as pk
from probekit.probes.layer_sweep import command_of
from tests.models.tiny import WORDS, make_model, make_tokenizer

QUICK = {"n_boot": 100, "progress": False}


@pytest.mark.parametrize("n", [120, 1000])
def test_the_interval_of_shuffled_labels_holds_chance(n):
    """One feature tells the classes and all else is noise: what one dealing of the labels gives is luck, from 0 to 1."""
    held = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, n)
        X = rng.normal(size=(n, 8)).astype(np.float32)
        X[:, 0] += 6 * y
        frame = pk.sweep({"s": X}, labels={"y": y}, seed=seed, **QUICK).to_frame()
        one = frame[frame.source.eq("shuffled") & frame.metric.eq("accuracy") & frame.target.eq("mean")].iloc[0]
        held.append(one.low <= 0.5 <= one.high)
        assert 0.2 < one.value < 0.8
    assert sum(held) >= 11


def test_labels_are_dealt_once_where_there_are_many():
    from probekit.probes.question import DEALT, SHUFFLES, _dealt_again

    for rows, targets, times in ((100, 1, SHUFFLES), (DEALT // 4, 1, 4), (2000, 64, 1)):
        values = np.random.default_rng(0).integers(0, 2, (rows, targets))
        found = _dealt_again(values, np.arange(rows), 0)
        assert len(found) == times
        assert all(np.array_equal(np.sort(one, 0), np.sort(values, 0)) for one in found)
        assert len({one.tobytes() for one in found}) == times


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label", "city"), *rows])
    return path


def test_a_group_that_is_in_training_does_not_count_in_a_test_of_its_own(tmp_path):
    rng = np.random.default_rng(0)
    cities = [f"city {i}" for i in range(40)]

    def rows(names, extra):
        return [(" ".join([*rng.choice(WORDS, 6), extra, str(i)]), i % 2, name) for i, name in enumerate(names)]

    train = pk.read_csv(write(tmp_path / "train.csv", rows(cities * 2, "red")), "text", "label", "city")
    both = [*cities[:20], *[f"new {i}" for i in range(20)], ""]
    with pytest.warns(UserWarning, match="each of them is a group of its own"):
        other = pk.read_csv(write(tmp_path / "other.csv", rows(both, "blue")), "text", "label", "city", like=train)
    model = pk.load_model(make_model("llama"), tokenizer=make_tokenizer())
    result = pk.sweep(
        model, train, "label", sites=[model.stream_sites[-1]], ood={"other": other}, controls=False, **QUICK
    )
    used = result.label_set("label").rows
    # Test cities are a fifth of the forty; those among the first twenty are new to the probe and count, and so does a row without one.
    dropped = next(
        int(note.split()[0]) for note in result.notes if "their group is also in training or validation" in note
    )
    assert used["other"] == 41 - dropped
    assert 8 <= dropped <= 20
    only_old = pk.read_csv(write(tmp_path / "old.csv", rows(cities * 3, "green")), "text", "label", "city", like=train)
    whole = pk.Dataset(
        only_old.name,
        texts=only_old.texts,
        groups=only_old.groups,
        labels=only_old.labels,
        group_names=only_old.group_names,
    )
    again = pk.sweep(model, train, "label", sites=[model.stream_sites[-1]], ood={"old": whole}, controls=False, **QUICK)
    assert any("their group is also in training" in note for note in again.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": [-1.0, 1.0]}, "C must be positive"),
        ({"grid": []}, "grid is empty"),
        ({"probe": pk.LogisticProbe(C=-1)}, "C must be positive"),
        ({"probe": pk.LogisticProbe(penalty="l3")}, "penalty must be"),
        ({"probe": pk.RidgeProbe(kind="continuous"), "grid": [-1.0]}, "alpha must be"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_captured(settings, message, monkeypatch):
    model = pk.load_model(make_model("llama"), tokenizer=make_tokenizer())
    data = pk.Dataset(
        "d",
        texts=tuple(f"the cat {i}" for i in range(40)),
        labels={"y": pk.LabelSet.from_values("y", np.arange(40) % 2)},
    )

    def never(*args, **kwargs):
        raise AssertionError("captured")

    monkeypatch.setattr("probekit.probes.rows.capture", never)
    with pytest.raises(ValueError, match=message):
        pk.sweep(model, data, "y", **settings, **QUICK)


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ([""], ""),
        (["-c"], ""),
        (["/env/lib/python3.11/site-packages/ipykernel_launcher.py", "-f", "kernel.json"], ""),
        (["/env/bin/ipython"], ""),
        (["/env/bin/probekit", "probe", "a b.csv"], "/env/bin/probekit probe 'a b.csv'"),
        (["study.py", "--seed", "1"], "study.py --seed 1"),
    ],
)
def test_the_command_is_one_that_can_be_given_again(argv, command):
    assert command_of(argv) == command


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 4)).astype(np.float32), rng.integers(0, 2, 120)
    return pk.sweep({"s": X}, labels={"y": y}, groups=np.arange(120) // 2, controls=False, **QUICK), X, y


def test_a_result_cannot_be_written_over(result):
    for name in ("figures", "validation", "draws", "tables", "probes", "manifest"):
        with pytest.raises(TypeError, match="does not support item assignment"):
            getattr(result[0], name)["y"] = 1


def test_the_manifest_tells_groups_of_arrays_apart(result):
    one, X, y = result
    other = pk.sweep({"s": X}, labels={"y": y}, groups=np.arange(120) // 5, controls=False, **QUICK)
    same = pk.sweep({"s": X}, labels={"y": y}, groups=np.arange(120) // 2, controls=False, **QUICK)
    assert (
        one.manifest["arguments"]["groups"]
        == same.manifest["arguments"]["groups"]
        != other.manifest["arguments"]["groups"]
    )


def test_two_rows_have_no_interval_of_r2():
    import torch

    from probekit.probes.intervals import bootstrap, cluster_counts
    from probekit.probes.metrics import VALUE_METRICS, Predictions

    r2 = next(metric for metric in VALUE_METRICS if metric.name == "r2")
    for n, known in ((2, False), (30, True)):
        truth = np.random.default_rng(0).normal(size=n)
        said = Predictions.of_values(truth + 1, truth)
        low, high = bootstrap(r2, said, torch.arange(n), cluster_counts(n, 100, 0)).interval()
        assert np.isfinite(low).all() == np.isfinite(high).all() == known


def test_ids_that_look_like_amounts_are_said():
    ids = np.random.default_rng(0).permutation(np.arange(1000, 9000))[:80]
    with pytest.warns(UserWarning, match="if they are ids, leave the column out"):
        assert pk.LabelSet.from_values("y", ids).kind == "continuous"
