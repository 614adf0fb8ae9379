"""What users of other tools trip over, and what must not happen here; and bad input, which gets a clear error."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from probekit.activations import ActivationStore, ArrayActivations, capture
from probekit.data import Dataset, LabelSet, read_csv
from probekit.models import Model, load_model
from probekit.probes import LogisticProbe, sweep
from probekit.probes.rows import draw_evenly, plan_rows
from tests.models.tiny import save_tiny_model

QUIET = {"n_boot": 100, "controls": False, "progress": False}


@pytest.fixture(scope="module")
def tiny() -> Model:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=30, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    return load_model(GPT2LMHeadModel(config))


def token_data(n: int = 60, length: int = 8, **more: object) -> Dataset:
    rng = np.random.default_rng(0)
    tokens = tuple(rng.integers(0, 30, length) for _ in range(n))
    flat = np.concatenate(tokens)
    labels = {
        "tok": LabelSet("tok", flat % 2, "binary", "token", ("0", "1")),
        "seq": LabelSet("seq", np.array([int(t[-1]) % 2 for t in tokens]), "binary", "sequence", ("0", "1")),
    }
    return Dataset("tokens", tokens=tokens, labels=labels, **more)  # type: ignore[arg-type]


def binary(y: np.ndarray) -> LabelSet:
    return LabelSet("y", y, "binary", "sequence", ("0", "1"))


def noise(n: int = 120, sites: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"site{i}": rng.normal(size=(n, 6)).astype(np.float32) for i in range(sites)}


# Which score chooses the layer


def test_layer_is_chosen_on_validation_and_reported_on_test() -> None:
    """Validation favours one site, test another: the reported score is the worse one, and not the best on test."""
    n = 600
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    part = np.repeat(["train", "valid", "test"], n // 3)
    signal = 3.0 * (2 * y - 1)
    arrays = {name: rng.normal(size=(n, 4)).astype(np.float32) for name in ("fades", "holds")}
    arrays["fades"][:, 0] += np.where(part == "test", 0, signal)  # read perfectly until test
    arrays["holds"][:, 0] += np.where(
        part == "valid", 0.2 * signal, signal
    )  # hardly readable on validation, well on test
    data = Dataset("parts", tokens=tuple(np.array([i]) for i in range(n)), split=part, labels={"y": binary(y)})
    result = sweep(arrays, data, **QUIET)
    best = result.best("y")
    frame = result.to_frame()
    on_test = frame[(frame.metric == "accuracy") & (frame.target == "mean")].set_index("site")["value"]
    assert on_test["holds"] > 0.9 > 0.7 > on_test["fades"]
    assert best.site == "fades"
    assert best.value == on_test["fades"]
    assert "holds" not in best.tied


def test_penalty_is_chosen_without_test() -> None:
    """Other test labels change the reported scores and nothing that was chosen."""
    arrays, n = noise(300), 300
    y = (arrays["site0"][:, 0] + np.random.default_rng(1).normal(size=n) > 0).astype(int)
    split = np.array(["train"] * 150 + ["valid"] * 50 + ["test"] * 100)
    tokens = tuple(np.array([i]) for i in range(n))
    results = []
    for flip in (False, True):
        z = np.where((split == "test") & flip, 1 - y, y)
        results.append(sweep(arrays, Dataset("d", tokens=tokens, split=split, labels={"y": binary(z)}), **QUIET))
    for site in arrays:
        assert torch.equal(results[0].probes["y"][site].coef, results[1].probes["y"][site].coef)
        assert torch.equal(results[0].probes["y"][site].chosen, results[1].probes["y"][site].chosen)
    assert results[0].best("y").site == results[1].best("y").site
    assert results[0].best("y").value + results[1].best("y").value == pytest.approx(1)


# Nothing to read


@pytest.mark.parametrize("spread", [0.0, 1e-12, 3e-8])
def test_a_site_that_does_not_vary_is_read_at_chance(spread: float) -> None:
    """What is left of such features is rounding, whose Gram matrix float32 takes apart into NaN."""
    rng = np.random.default_rng(2)
    flat = (rng.normal(size=64) + spread * rng.normal(size=(400, 64))).astype(np.float32)
    y = rng.integers(0, 2, 400)
    data = Dataset("flat", tokens=tuple(np.array([i]) for i in range(400)), labels={"y": binary(y)})
    frame = sweep({"flat": flat, "noise": rng.normal(size=(400, 4))}, data, **QUIET).to_frame()
    said = frame[(frame.site == "flat") & (frame.target == "mean")].set_index("metric").value
    assert said["log_loss"] == pytest.approx(np.log(2), abs=0.05)
    assert np.isfinite(said["calibration_error"])
    for seed in range(12):
        same = np.random.default_rng(seed).normal(size=64).astype(np.float32)[None].repeat(400, 0)
        assert np.isfinite(LogisticProbe().fit(same, y).predict_log_proba(same)).all()


# Leaks


def test_seen_prefixes_count_neither_in_validation_nor_in_test() -> None:
    rng = np.random.default_rng(0)
    prefix = rng.integers(0, 150, 200).astype(np.uint64)
    plan = plan_rows(np.arange(200), np.arange(200), prefix, given=None, seed=0, max_rows=1000)
    train, valid, test = (set(prefix[plan.parts[name]].tolist()) for name in ("train", "valid", "test"))
    assert train
    assert valid
    assert test
    assert not train & valid
    assert not (train | valid) & test
    assert "do not count" in plan.notes[0]


def test_copies_of_a_sequence_never_face_each_other(tiny: Model) -> None:
    """Random labels of sequences that all occur twice could be learned by heart, were the copies split."""
    rng = np.random.default_rng(0)
    half = [rng.integers(0, 30, 6) for _ in range(100)]
    y = np.tile(rng.integers(0, 2, 100), 2)
    data = Dataset("twice", tokens=tuple(half + half), labels={"y": binary(y)})
    result = sweep(tiny, data, **QUIET)
    frame = result.to_frame()
    rows = frame[(frame.metric == "accuracy") & (frame.target == "mean")]
    assert ((rows.low <= 0.5) & (rows.high >= 0.5)).all()


def test_groups_are_never_split() -> None:
    """A label that is a property of the group only, and activations that identify the group: chance, if split by group."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 10)
    centre, label = rng.normal(size=(40, 30)), rng.integers(0, 2, 40)
    arrays = {"site": (4 * centre[group] + 0.1 * rng.normal(size=(400, 30))).astype(np.float32)}
    by_group = sweep(arrays, labels={"y": label[group]}, groups=group, **QUIET).best("y")
    by_row = sweep(arrays, labels={"y": label[group]}, **QUIET).best("y")
    assert by_row.value > 0.9  # what leaks when groups are split
    assert by_group.value < 0.85
    assert by_group.low <= 0.5 <= by_group.high
    assert by_group.high - by_group.low > 2 * (by_row.high - by_row.low)  # and the interval knows that groups are few


def test_rows_are_drawn_evenly_over_sequences() -> None:
    sequence = np.repeat(np.arange(20), np.r_[np.full(10, 3), np.full(10, 50)])
    picked = draw_evenly(np.arange(len(sequence)), sequence, 100, np.random.default_rng(0))
    assert len(picked) == 100
    counts = np.bincount(sequence[picked], minlength=20)
    assert (counts[:10] == 3).all()  # the short ones give all they have
    assert counts[10:].min() >= counts[10:].max() - 1


# Names and labels


def test_strings_are_never_values_and_never_prompts(tiny: Model) -> None:
    data = token_data()
    with pytest.raises(KeyError, match=r"pass labels=\{'my label'"):
        sweep(tiny, data, ["yes", "no"] * 30, **QUIET)
    with pytest.raises(TypeError, match="bare ndarray of values"):
        sweep(noise(), labels=np.zeros(120), **QUIET)
    result = sweep(tiny, data, {"answer": ["yes", "no"] * 30}, **QUIET)
    assert result.label_set("answer").classes == ("no", "yes")


def test_layer_numbers_are_refused_and_sites_say_their_side(tiny: Model) -> None:
    with pytest.raises(TypeError, match="ambiguous"):
        sweep(tiny, token_data(), ["seq"], sites=[0], **QUIET)  # type: ignore[list-item]
    result = sweep(tiny, token_data(), ["seq"], **QUIET)
    assert result.sites[:2] == (
        "blocks.0.hook_resid_pre",
        "blocks.0.hook_resid_post",
    )  # both are "layer 0"; the names differ


def test_unknown_names_show_the_near_ones(tiny: Model) -> None:
    with pytest.raises(KeyError, match=r"near it: seq"):
        sweep(tiny, token_data(), ["sec"], **QUIET)
    with pytest.raises(KeyError, match="resid_post"):
        sweep(tiny, token_data(), ["seq"], sites=["blocks.0.hook_resid_pots"], **QUIET)
    with pytest.raises(KeyError, match="near it: site0"):
        sweep(noise(), labels={"y": np.arange(120) % 2}, sites=["sites0"], **QUIET)
    with pytest.raises(ValueError, match="no probe family 'svm'"):
        sweep(noise(), labels={"y": np.arange(120) % 2}, probe="svm", **QUIET)
    result = sweep(noise(), labels={"truth": np.arange(120) % 2}, **QUIET)
    with pytest.raises(KeyError, match="near it: truth"):
        result.best("thruth")
    with pytest.raises(KeyError, match="it has: accuracy"):
        result.best("truth", "f1")


def test_three_classes_are_three_classes() -> None:
    arrays = noise(240)
    y = np.arange(240) % 3
    arrays["site0"][np.arange(240), y] += 5
    result = sweep(arrays, labels={"y": [("b", "a", "c")[i] for i in y]}, **QUIET)
    assert result.probes["y"]["site0"].kind == "multiclass"
    assert result.best("y").value > 0.95


# Bad input


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"y": np.zeros(120, int)}, "one class only"),
        ({"y": np.arange(120) % 2 + np.where(np.arange(120) == 7, np.nan, 0)}, "have no value"),
        ({"y": [f"text {i}" for i in range(120)]}, "id or free text"),
        ({"y": np.arange(60) % 2}, r"expected one a sequence \(120\)"),
        ({}, "labels is empty"),
        (None, "there are no labels"),
    ],
)
def test_labels_that_cannot_be_probed(labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(noise(), labels=labels, **QUIET)  # type: ignore[arg-type]


def test_one_class_in_training_is_an_error() -> None:
    split = np.array(["train"] * 60 + ["valid"] * 30 + ["test"] * 30)
    y = (np.arange(120) >= 60).astype(int)
    data = Dataset("d", tokens=tuple(np.array([i]) for i in range(120)), split=split, labels={"y": binary(y)})
    with pytest.raises(ValueError, match="one class only"):
        sweep(noise(), data, **QUIET)


def test_a_target_of_one_class_does_not_cost_the_others() -> None:
    y = np.stack([np.arange(120) % 2, np.zeros(120, int)], 1)
    result = sweep(noise(), labels=LabelSet("y", y, "binary", "sequence", ("0", "1"), ("varied", "flat")), **QUIET)
    assert result.label_set("y").targets == ("varied",)
    assert any("flat" in note for note in result.notes)


def test_lengths_say_the_level_that_was_expected(tiny: Model) -> None:
    data = token_data()
    with pytest.raises(ValueError, match=r"expected one a sequence \(60\), or one a token \(480\)"):
        sweep(tiny, data, {"y": np.arange(100) % 2}, **QUIET)
    wrong = LabelSet("y", np.arange(100) % 2, "binary", "token", ("0", "1"))
    with pytest.raises(ValueError, match="token-level and has 100 values, but there are 480 tokens"):
        sweep(tiny, data, wrong, **QUIET)


def test_token_labels_need_token_rows(tiny: Model, tmp_path: Path) -> None:
    data = token_data()
    with pytest.raises(ValueError, match="labels of tokens need a row a token"):
        sweep(tiny, data, ["tok"], pool="last", **QUIET)
    store = capture(tiny, data, pool="mean", out=tmp_path / "store", progress=False)
    with pytest.raises(ValueError, match="labels of tokens need a row a token"):
        sweep(store, data, ["tok"], **QUIET)
    with pytest.raises(ValueError, match="captured with pool='mean'"):
        sweep(store, data, ["seq"], pool="last", **QUIET)


def test_store_of_other_data_is_refused(tiny: Model, tmp_path: Path) -> None:
    capture(tiny, token_data(), pool="last", out=tmp_path / "store", progress=False)
    with pytest.raises(ValueError, match="was captured from data"):
        sweep(tmp_path / "store", token_data(n=61), ["seq"], **QUIET)
    with pytest.raises(FileNotFoundError, match="load_model"):
        sweep("gpt2-that-is-not-here", token_data(), ["seq"], **QUIET)


def test_sources_that_are_none() -> None:
    with pytest.raises(TypeError, match="source is a list"):
        sweep([1, 2], labels={"y": [0, 1]}, **QUIET)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only a model can read it"):
        sweep(noise(), labels={"y": np.arange(120) % 2}, ood={"more": token_data()}, **QUIET)
    with pytest.raises(ValueError, match="n_boot must be at least 100"):
        sweep(noise(), labels={"y": np.arange(120) % 2}, n_boot=5, progress=False)
    with pytest.raises(ValueError, match="groups has 3 entries"):
        sweep(noise(), labels={"y": np.arange(120) % 2}, groups=[1, 2, 3], **QUIET)


def test_out_of_distribution_labels_must_fit(tiny: Model) -> None:
    data = token_data()
    rng = np.random.default_rng(3)
    tokens = tuple(rng.integers(0, 30, 5) for _ in range(20))
    other = Dataset(
        "other", tokens=tokens, labels={"seq": LabelSet("seq", np.arange(20) % 2, "binary", "sequence", ("no", "yes"))}
    )
    with pytest.raises(ValueError, match="that training lacks"):
        sweep(tiny, data, ["seq"], ood=other, **QUIET)
    with pytest.raises(KeyError, match="has no label set 'seq'"):
        sweep(tiny, data, ["seq"], ood=Dataset("bare", tokens=tokens), **QUIET)


def test_arrays_with_their_own_prefixes_are_checked() -> None:
    arrays = noise(120)
    prefix = np.r_[np.arange(100), np.zeros(20)].astype(np.uint64)  # twenty rows that saw the same as row 0
    given = ArrayActivations(arrays, prefix=prefix)
    result = sweep(given, labels={"y": np.arange(120) % 2}, **QUIET)
    rows = result.label_set("y").rows
    assert sum(rows.values()) < 120
    assert any("do not count" in note for note in result.notes)


def test_an_estimator_keeps_its_own_penalty() -> None:
    y = np.arange(120) % 2
    result = sweep(noise(), labels={"y": y}, probe=LogisticProbe(C=0.37), **QUIET)
    assert result.probes["y"]["site0"].chosen.tolist() == [0.37]
    result = sweep(noise(), labels={"y": y}, probe=LogisticProbe(C=0.37), grid=[0.01, 0.02], **QUIET)
    assert result.probes["y"]["site0"].chosen.item() in (0.01, 0.02)


def test_what_does_not_hold_for_continuous_labels_is_said() -> None:
    values = {"y": np.random.default_rng(1).normal(size=120)}
    assert not [n for n in sweep(noise(), labels=values, **QUIET).notes if "ridge" in n]
    for asked in ({"probe": "lda"}, {"grid": [0.5]}):
        notes = sweep(noise(), labels=values, **asked, **QUIET).notes
        assert [n for n in notes if n.startswith("y: continuous, so read by ridge")]


def test_arguments_of_the_wrong_kind_get_a_clear_error(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    y = {"y": np.arange(120) % 2}
    with pytest.raises(TypeError, match="probe is a LogisticRegression; it must be"):
        sweep(noise(), labels=y, probe=LogisticRegression(), **QUIET)
    with pytest.raises(ValueError, match="seed must be a whole number >= 0, got -1"):
        sweep(noise(), labels=y, seed=-1, **QUIET)
    with pytest.raises(TypeError, match="ood is a list"):
        sweep(noise(), labels=y, ood=[token_data()], **QUIET)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="a model is given as an object"):
        sweep(tmp_path, token_data(), **QUIET)
    assert sweep(noise(), labels=y, groups=[None, "a", "b", "c", "d", "e"] * 20, **QUIET).best("y")


def test_arrays_must_have_a_row_for_every_sequence_of_the_data() -> None:
    data = Dataset("texts", texts=tuple(f"text {i}" for i in range(130)))
    with pytest.raises(ValueError, match="the arrays have 120 rows, but the data has 130 sequences"):
        sweep(noise(120), data, {"y": np.arange(130) % 2}, **QUIET)


def test_a_damaged_store_is_found_before_it_is_read(tiny: Model, tmp_path: Path) -> None:
    data = token_data()
    store = capture(tiny, data, "blocks.0.hook_resid_post", out=tmp_path / "store", pool="last", progress=False)
    shard = store.path / store.manifest.shards[0].name
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00000.safetensors is damaged"):
        sweep(store.path, data, "seq", **QUIET)


def test_one_test_sequence_gives_no_interval(tmp_path: Path) -> None:
    rows = ArrayActivations(noise(90), sequence=np.repeat([0, 1, 2], 30))
    result = sweep(rows, labels={"y": np.arange(90) % 2}, **QUIET)
    best = result.best("y")
    assert np.isnan([best.low, best.high]).all()
    assert len(best.tied) == 1  # of two sites: they cannot be told apart
    assert "the test rows come from 1 group (or sequences) only: no interval can be given" in result.notes
    assert result.save_page(tmp_path / "page.html").is_file()


def test_a_target_called_mean_is_refused() -> None:
    two = LabelSet("z", np.stack([np.arange(120) % 2] * 2, 1), "binary", "sequence", ("0", "1"), ("mean", "x"))
    for labels in (two, {"mean": np.arange(120) % 2}):
        with pytest.raises(ValueError, match="a target cannot be called 'mean'"):
            sweep(noise(), labels=labels, **QUIET)


def test_reading_with_another_model_warns(tiny: Model) -> None:
    result = sweep(tiny, token_data(), "seq", **QUIET)
    with pytest.warns(UserWarning, match="with other weights"):
        result.read(tiny.randomized(1), [1, 2, 3], "seq")


def test_token_labels_of_a_store_that_holds_some_tokens(tmp_path: Path) -> None:
    """Labels have a value for every token; which of them the store holds is the store's affair."""
    model = load_model(save_tiny_model(tmp_path / "model"))
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(["paris", "cat", "red", "dog", "rome"], 3 + i % 4)) for i in range(60))
    tokens, _ = model.tokenize(texts)
    every = np.concatenate(tokens) % 2
    data = Dataset("texts", texts=texts, labels={"odd": LabelSet.from_values("odd", every, level="token")})
    some = np.arange(len(every)) < len(every) - 30
    for name, which in (("every", {"every": 2}), ("rows", {"rows": some})):
        site = "blocks.0.hook_resid_pre"
        store = capture(model, data, site, out=tmp_path / name, progress=False, **which)  # type: ignore[arg-type]
        assert store.item.max() + 1 < len(every)
        assert sweep(store, data, **QUIET).best("odd").value == 1
        assert sweep(store, data, {"odd": every}, **QUIET).best("odd").value == 1


def test_labels_shuffle_within_balanced_groups_too() -> None:
    """A true and a false sentence about each thing, kept together: the shuffled control must still know nothing."""
    rng = np.random.default_rng(0)
    y = np.tile([1, 0], 150)
    x = rng.normal(size=(300, 8)).astype(np.float32) + 2 * y[:, None]
    options = {**QUIET, "controls": True}
    result = sweep({"site": x}, labels={"y": binary(y)}, groups=np.repeat(np.arange(150), 2), **options)
    frame = result.to_frame()
    mean = (
        frame[(frame.metric == "auroc") & (frame.target == "mean") & (frame.data == "test")].set_index("source").value
    )
    assert mean["model"] > 0.99
    assert mean["shuffled"] < 0.9


# Large sweeps


@pytest.mark.parametrize(("scale", "kept"), [(1.0, "float16"), (1e7, "bfloat16")])
def test_half_precision_is_said_and_overflow_falls_back(
    monkeypatch: pytest.MonkeyPatch, scale: float, kept: str
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=30, n_positions=12, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None
    )
    model = load_model(GPT2LMHeadModel(config))
    with torch.no_grad():
        model.hf.transformer.wte.weight.mul_(scale)
    data = token_data()
    options = QUIET | {"sites": "blocks.0.hook_resid_post"}
    exact = sweep(model, data, ["seq"], **options)
    assert not any("float32" in note for note in exact.notes)
    monkeypatch.setattr("probekit.probes.rows.LARGE_STORE", 0)
    result = sweep(model, data, ["seq"], **options)
    assert any(f"in float32 and were kept in {kept}" in note for note in result.notes)
    assert abs(result.best("seq").value - exact.best("seq").value) < 0.2


def test_what_the_file_said_is_in_the_notes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"word {i % 38},{i % 38 % 2},{'' if i in (3, 5) else i % 38}" for i in range(40)]
    file = tmp_path / "some.csv"
    file.write_text("text,label,author\n" + "\n".join(rows) + "\n")
    with pytest.warns(UserWarning, match="repeat"):
        data = read_csv(file, text="text", label="label", group="author")
    result = sweep(ArrayActivations({"x": rng.normal(size=(40, 3))}), data, n_boot=100, controls=False, progress=False)
    assert any("2 rows repeat the text of an earlier row" in note for note in result.notes)
    assert any("2 rows have no value in the column of groups" in note for note in result.notes)


def test_a_bare_number_is_no_site(tiny: Model, tmp_path: Path) -> None:
    data = token_data()
    with pytest.raises(TypeError, match="bare layer number would be ambiguous"):
        sweep(tiny, data, ["seq"], sites=0, **QUIET)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bare layer number would be ambiguous"):
        capture(tiny, data, 0, progress=False)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="bare layer number would be ambiguous"):
        sweep(tiny, data, ["seq"], sites=["1"], **QUIET)
    with pytest.raises(TypeError, match="model is a str, not a Model: load it first"):
        capture("tiny", data, progress=False)  # type: ignore[arg-type]


def test_a_store_is_compared_with_its_checksums_before_it_is_swept(tiny: Model, tmp_path: Path) -> None:
    data = token_data()
    capture(tiny, data, out=tmp_path / "s", progress=False)
    shard = tmp_path / "s" / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00000.safetensors is damaged"):
        sweep(ActivationStore.open(tmp_path / "s"), data, ["tok"], **QUIET)


def test_a_full_disk_of_a_sweep_says_where_it_is(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 0))
    with pytest.raises(
        OSError, match=r"the temporary activations of 'tokens' need .* set TMPDIR to a folder on another disk"
    ):
        sweep(tiny, token_data(), ["tok"], **QUIET)


def test_the_manifest_tells_other_labels_groups_and_arrays_apart() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.arange(60) % 2

    def manifest(X: np.ndarray, y: np.ndarray, groups: np.ndarray) -> dict[str, object]:
        data = Dataset(
            "d", texts=[f"t{i}" for i in range(60)], labels={"y": LabelSet.from_values("y", y)}, groups=groups
        )
        found = dict(sweep({"x": X}, data, ["y"], **QUIET).manifest)
        return {k: v for k, v in found.items() if k not in ("started", "seconds")}

    first = manifest(X, y, np.arange(60))
    assert first == manifest(X, y, np.arange(60))
    assert first != manifest(X + 1e-3, y, np.arange(60))
    assert first != manifest(X, 1 - y, np.arange(60))
    assert first != manifest(X, y, np.arange(60) // 2)
