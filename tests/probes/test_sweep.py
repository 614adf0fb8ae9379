"""The sweep on arrays, stores and a small model: planted truths are found, controls stay where they belong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from probekit.activations import ArrayActivations, capture
from probekit.data import Dataset, LabelSet
from probekit.models import Model, load_model
from probekit.probes import LogisticProbe, SweepResult, sweep
from tests.models.tiny import CONFIGS, make_model

FRAME = ["site", "layer", "label_set", "target", "data", "source", "metric", "value", "low", "high", "n"]


@pytest.fixture(scope="module")
def tiny() -> Model:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40, n_positions=24, n_embd=32, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    return load_model(GPT2LMHeadModel(config))


@pytest.fixture(scope="module")
def sequences() -> Dataset:
    rng = np.random.default_rng(0)
    tokens = tuple(rng.integers(0, 40, rng.integers(8, 24)) for _ in range(150))
    flat = np.concatenate(tokens)
    return Dataset(
        "sequences",
        tokens=tokens,
        groups=np.arange(150) // 2,
        labels={
            "now": LabelSet(
                "now", np.stack([flat % 3, flat // 14], 1), "multiclass", "token", ("a", "b", "c"), ("mod", "div")
            ),
            "last": LabelSet("last", np.array([int(t[-1]) % 2 for t in tokens]), "binary", "sequence", ("even", "odd")),
            "size": LabelSet("size", np.array([float(t[-1]) for t in tokens]), "continuous", "sequence"),
        },
    )


def planted(
    seed: int = 0, n: int = 400, sites: int = 3, effect: float = 4.0
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Noise at every site, and the label in one direction of the site in the middle."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    arrays = {f"site{i}": rng.normal(size=(n, 12)).astype(np.float32) for i in range(sites)}
    arrays["site1"] += effect * np.outer(y, rng.normal(size=12) / 12**0.5).astype(np.float32)
    return arrays, y


@pytest.fixture(scope="module")
def of_arrays() -> SweepResult:
    arrays, y = planted()
    rng = np.random.default_rng(5)
    labels = {
        "truth": np.where(y, "yes", "no").tolist(),
        "noise": rng.integers(0, 3, len(y)),
        "size": y + 0.3 * rng.normal(size=len(y)),
    }
    return sweep(arrays, labels=labels, groups=np.arange(len(y)) // 2, n_boot=200, progress=False)


@pytest.fixture(scope="module")
def of_model(tiny: Model, sequences: Dataset) -> SweepResult:
    return sweep(tiny, sequences, max_rows=800, n_boot=200, progress=False)


def value(result: SweepResult, **wanted: object) -> float:
    frame = result.to_frame()
    for column, x in {"target": "mean", "data": "test", **wanted}.items():
        frame = frame[frame[column].isna() if x is None else frame[column] == x]
    assert len(frame) == 1, frame
    return float(frame["value"].iloc[0])


def test_planted_truth_is_found_at_its_site(of_arrays: SweepResult) -> None:
    best = of_arrays.best("truth")
    assert best.site == "site1"
    assert best.value > 0.9
    assert best.tied == ()  # the noise sites can be told apart
    assert best.low <= best.value <= best.high
    assert of_arrays.best("size").site == "site1"
    assert of_arrays.best("size").metric == "r2"
    assert of_arrays.probes["truth"]["site1"].classes == ("no", "yes")


def test_noise_covers_chance_and_its_sites_are_tied(of_arrays: SweepResult) -> None:
    frame = of_arrays.to_frame()
    rows = frame[
        (frame.label_set == "noise") & (frame.metric == "auroc") & (frame.source == "model") & (frame.target == "mean")
    ]
    assert len(rows) == 3
    assert ((rows.low <= 0.5) & (rows.high >= 0.5)).all()
    assert len(of_arrays.best("noise").tied) == 2


def test_shuffled_labels_are_near_chance(of_arrays: SweepResult) -> None:
    assert abs(value(of_arrays, label_set="truth", metric="auroc", source="shuffled", site="site1") - 0.5) < 0.25
    assert value(of_arrays, label_set="truth", metric="auroc", source="majority", site=None) == 0.5


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_is_swept_at_every_layer(family: str) -> None:
    """Five lines on a small random model: what the last token is can be read at the embedding of each."""
    model = load_model(make_model(family))
    rng = np.random.default_rng(0)
    tokens = tuple(rng.integers(4, 16, 6) for _ in range(240))
    last = LabelSet("last", np.array([int(t[-1] > 9) for t in tokens]), "binary", "sequence", ("low", "high"))
    data = Dataset("numbers", tokens=tokens, labels={"last": last})
    result = sweep(model, data, ["last"], pool="last", controls=False, n_boot=100, progress=False)
    assert result.sites == model.stream_sites
    frame = result.to_frame().query(
        "label_set == 'last' and source == 'model' and metric == 'auroc' and target == 'mean'"
    )
    assert list(frame.site) == list(model.stream_sites)
    assert frame.value.iloc[0] > 0.9
    assert np.isfinite(frame[["low", "high"]].to_numpy()).all()
    direction = result.best("last").direction()
    assert direction.model == model.fingerprint
    assert len(direction) == model.d_model


def test_what_a_sweep_found_cannot_be_written_over(of_model: SweepResult, tmp_path: Path) -> None:
    of_model.save(tmp_path / "saved")
    for result in (of_model, SweepResult.load(tmp_path / "saved")):
        with pytest.raises(TypeError):
            result.figures["value"][0] = 1.0
        for array in (
            result.validation["now"]["accuracy"],
            result.draws["now"]["accuracy"],
            next(iter(result.tables["now"].values())).confusion,
        ):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1


def test_frame_is_tidy(of_arrays: SweepResult, of_model: SweepResult) -> None:
    for result in (of_arrays, of_model):
        frame = result.to_frame()
        assert list(frame.columns) == FRAME
        assert not frame.duplicated(["site", "label_set", "target", "data", "source", "metric"]).any()
        known = frame.dropna(subset=["value", "low", "high"])
        assert ((known.low <= known.value) & (known.value <= known.high)).all()
        assert set(frame.source) <= {"model", "majority", "shuffled", "control_task", "random_weights", "surface"}
        assert frame[frame.site.isna()].source.isin(["majority", "surface"]).all()


def test_model_sweep_has_every_control(of_model: SweepResult) -> None:
    frame = of_model.to_frame()
    assert of_model.sites == ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    assert of_model.layers == (0, 0, 1)
    assert [s.name for s in of_model.label_sets] == ["now", "last", "size"]
    for name in ("now", "last"):
        assert set(frame[frame.label_set == name].source) == {
            "model",
            "majority",
            "shuffled",
            "control_task",
            "random_weights",
            "surface",
        }
    # What a token is can be read from its embedding, by any probe and from the surface: the controls say so.
    for source, site in (
        ("model", "blocks.0.hook_resid_pre"),
        ("random_weights", "blocks.0.hook_resid_pre"),
        ("surface", None),
    ):
        assert value(of_model, label_set="now", metric="accuracy", source=source, site=site) > 0.7
    assert value(of_model, label_set="now", metric="accuracy", source="shuffled", site="blocks.0.hook_resid_pre") < 0.5
    task = value(of_model, label_set="now", metric="accuracy", source="control_task", site="blocks.0.hook_resid_pre")
    learned = value(of_model, label_set="now", metric="accuracy", source="model", site="blocks.0.hook_resid_pre")
    assert value(
        of_model, label_set="now", metric="selectivity", source="model", site="blocks.0.hook_resid_pre"
    ) == pytest.approx(learned - task)
    assert of_model.label_set("now").rows["train"] <= 800
    assert any("prefix" in note for note in of_model.notes)  # first tokens repeat across sequences


def test_store_and_arrays_give_what_the_model_gives(tiny: Model, sequences: Dataset, tmp_path: Path) -> None:
    options = {"labels": ["last"], "n_boot": 100, "progress": False, "controls": False}
    direct = sweep(tiny, sequences, **options).to_frame()
    store = capture(tiny, sequences, pool="last", out=tmp_path / "store", progress=False)
    stored = sweep(str(tmp_path / "store"), sequences, **options).to_frame()
    pd.testing.assert_frame_equal(direct, stored, rtol=1e-4, atol=1e-4)
    arrays = ArrayActivations({s: store.read(s) for s in store.sites}, prefix=store.prefix)
    given = sweep(
        arrays,
        labels={"last": sequences.label_set("last")},
        groups=sequences.groups,
        **{k: v for k, v in options.items() if k != "labels"},
    )
    pd.testing.assert_frame_equal(direct, given.to_frame(), rtol=1e-4, atol=1e-4)


def test_same_seed_same_numbers(of_arrays: SweepResult) -> None:
    arrays, y = planted()
    labels = {"truth": np.where(y, "yes", "no").tolist()}
    one, two, other = (sweep(arrays, labels=labels, n_boot=100, seed=seed, progress=False) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one.to_frame(), two.to_frame())
    assert torch.equal(one.probes["truth"]["site1"].coef, two.probes["truth"]["site1"].coef)
    assert not one.to_frame()["value"].equals(other.to_frame()["value"])


def test_saved_result_comes_back(of_model: SweepResult, tmp_path: Path) -> None:
    of_model.save(tmp_path)
    back = SweepResult.load(tmp_path)
    pd.testing.assert_frame_equal(back.to_frame(), of_model.to_frame())
    for name in ("now", "last", "size"):
        assert back.best(name) == of_model.best(name)
        assert back.label_set(name) == of_model.label_set(name)
        pd.testing.assert_frame_equal(back.confusion(name), of_model.confusion(name))
        pd.testing.assert_frame_equal(back.calibration(name), of_model.calibration(name))
        for site in of_model.sites:
            mine, its = of_model.probes[name][site], back.probes[name][site]
            assert torch.equal(mine.coef, its.coef)
            assert torch.equal(mine.chosen, its.chosen)
            assert (mine.family, mine.parameters, mine.sites) == (its.family, its.parameters, its.sites)
    assert back.notes == of_model.notes
    assert back.summary() == of_model.summary()
    assert {p.name for p in tmp_path.iterdir()} == {"result.json", "probes.safetensors", "draws.safetensors"}
    json.loads((tmp_path / "result.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))


def test_numbers_that_json_lacks_do_not_cost_the_result(tmp_path: Path) -> None:
    arrays, y = planted(n=120)
    data = Dataset(
        "d", texts=tuple(f"text {i}" for i in range(120)), facts={"x": float("nan"), "y": [np.float64(np.inf)]}
    )
    probe = LogisticProbe(C=np.inf)
    result = sweep(arrays, data, {"y": y}, probe=probe, n_boot=100, controls=False, progress=False)
    again = SweepResult.load(result.save(tmp_path)).probes["y"]["site0"]
    assert again.grid == result.probes["y"]["site0"].grid == (np.inf,)
    assert again.parameters["C"] == np.inf


def test_a_document_that_lacks_parts_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match=r"result\.json is damaged: it lacks or misplaces 'checksums'"):
        SweepResult.load(tmp_path)


def test_damage_is_found(of_arrays: SweepResult, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no result\.json"):
        SweepResult.load(tmp_path / "nowhere")
    of_arrays.save(tmp_path)
    path = tmp_path / "probes.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"probes\.safetensors is damaged"):
        SweepResult.load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="is missing"):
        SweepResult.load(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        SweepResult.load(tmp_path)


def test_a_save_that_fails_leaves_the_old_result(
    of_arrays: SweepResult, of_model: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_arrays.save(tmp_path)
    replace, left = Path.replace, 0

    def fails_at_last(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails_at_last)
    for steps in range(5):  # two tensor files that wait, result.json, and their two moves
        left = steps
        with pytest.raises(OSError, match="the disk is full: the result is not saved to"):
            of_model.save(tmp_path)
        whole = of_arrays if steps < 3 else of_model
        assert SweepResult.load(tmp_path).summary() == whole.summary()
    monkeypatch.undo()
    of_arrays.save(tmp_path)
    assert SweepResult.load(tmp_path).summary() == of_arrays.summary()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_manifest_says_how_to_run_it_again(of_model: SweepResult, tiny: Model, sequences: Dataset) -> None:
    manifest = of_model.manifest
    assert manifest["seed"] == 0
    assert manifest["model"]["fingerprint"] == tiny.fingerprint
    assert manifest["data"]["fingerprint"] == sequences.fingerprint()
    direction = of_model.best("last").direction()
    assert (direction.site, direction.model) == (of_model.best("last").site, tiny.fingerprint)
    assert direction.provenance["data"] == {"name": "sequences", "fingerprint": sequences.fingerprint()}
    assert manifest["arguments"]["labels"] == ["now", "last", "size"]
    assert manifest["arguments"]["max_rows"] == 800
    assert {"python", "probekit", "torch"} <= set(manifest["versions"])
    assert isinstance(
        manifest["command"], str
    )  # empty where a worker of the tests was not started by a command of ours


def test_confusion_and_calibration_agree_with_the_figures(of_model: SweepResult) -> None:
    confusion = of_model.confusion("now")
    pooled = confusion[(confusion.target == "mean") & (confusion.data == "test")]
    accuracy = pooled[pooled.true == pooled.predicted].n.sum() / pooled.n.sum()
    assert accuracy == pytest.approx(of_model.best("now").value, abs=1e-9)  # all targets have all rows
    bins = of_model.calibration("now")
    assert bins.n.sum() == pooled.n.sum()
    assert (bins.accuracy * bins.n).sum() / bins.n.sum() == pytest.approx(accuracy)
    assert of_model.confusion("size").empty


def test_reading_gives_the_probes_probabilities(of_model: SweepResult, tiny: Model, sequences: Dataset) -> None:
    assert sequences.tokens is not None
    tokens = sequences.tokens[0]
    read = of_model.read(tiny, tokens, "now", site="blocks.0.hook_resid_pre")
    assert read.shape == (len(tokens), 2, 3)
    np.testing.assert_allclose(read.sum(-1), 1, atol=1e-5)
    store = capture(tiny, [tokens], ["blocks.0.hook_resid_pre"], progress=False)
    logp = of_model.probes["now"]["blocks.0.hook_resid_pre"].log_proba(store.read("blocks.0.hook_resid_pre"))
    np.testing.assert_allclose(np.log(read), logp.numpy(), atol=1e-3)
    assert of_model.read(tiny, tokens, "size").shape == (len(tokens), 1)


def test_displays_are_escaped_and_say_the_best(of_arrays: SweepResult) -> None:
    arrays, y = planted(n=120)
    result = sweep(arrays, labels={"<script>alert(1)</script>": y}, n_boot=100, controls=False, progress=False)
    assert "<script>" not in result._repr_html_()
    assert "&lt;script&gt;" in result._repr_html_()
    assert "site1" in of_arrays.summary()
    assert of_arrays.best("truth").site in of_arrays._repr_html_()
    stack = of_arrays.probes["truth"]["site1"]
    for shown in (of_arrays, stack, stack.direction(0)):  # what a terminal shows is a line, not all the numbers
        assert len(repr(shown)) < 300
        assert "tensor(" not in repr(shown)


def test_out_of_distribution_sets_are_scored_beside_test(tiny: Model, sequences: Dataset) -> None:
    rng = np.random.default_rng(9)
    tokens = tuple(rng.integers(0, 40, 12) for _ in range(40))
    # The classes are named in another order, as a file of its own might have them.
    other = Dataset(
        "other",
        tokens=tokens,
        labels={
            "last": LabelSet(
                "last", np.array([1 - int(t[-1]) % 2 for t in tokens]), "binary", "sequence", ("odd", "even")
            )
        },
    )
    result = sweep(tiny, sequences, ["last"], ood={"elsewhere": other}, n_boot=100, progress=False)
    inside = value(result, label_set="last", metric="accuracy", source="model", site="blocks.0.hook_resid_pre")
    outside = value(
        result, label_set="last", metric="accuracy", source="model", site="blocks.0.hook_resid_pre", data="elsewhere"
    )
    assert inside > 0.8
    assert outside > 0.8
    assert set(result.confusion("last").data) == {"test", "elsewhere"}
    assert "on elsewhere" in result.summary()


def test_given_split_is_kept(sequences: Dataset) -> None:
    arrays, y = planted(n=150)
    split = np.array(["train"] * 90 + ["test"] * 30 + ["ood"] * 30)
    assert sequences.tokens is not None
    data = Dataset(
        "split", tokens=sequences.tokens, split=split, labels={"y": LabelSet("y", y, "binary", "sequence", ("0", "1"))}
    )
    result = sweep(arrays, data, n_boot=100, controls=False, progress=False)
    rows = result.label_set("y").rows
    assert (rows["test"], rows["ood"]) == (30, 30)
    assert rows["train"] + rows["valid"] == 90
    assert set(result.to_frame().data) == {"test", "ood"}
    unknown = Dataset(
        "gaps",
        tokens=sequences.tokens,
        split=split,
        labels={
            "y": LabelSet(
                "y", np.where(y == 1, 1, np.where(np.arange(len(y)) % 3 == 0, -1, 0)), "binary", "sequence", ("0", "1")
            )
        },
    )
    counted = sweep(arrays, unknown, n_boot=100, controls=False, progress=False).label_set("y").rows
    known = unknown.label_set("y").values[:, 0] >= 0
    assert sum(counted.values()) == known.sum() < 150  # rows without a label are no rows of the label set
    assert counted["ood"] == known[split == "ood"].sum()


def test_other_families_and_their_grids() -> None:
    arrays, y = planted(n=200)
    for family in ("ridge", "lda", "difference_in_means"):
        result = sweep(arrays, labels={"y": y}, probe=family, n_boot=100, progress=False)
        assert result.best("y").value > 0.85
        assert result.probes["y"]["site1"].family == family
    result = sweep(arrays, labels={"y": y}, probe="ridge", grid=[3.0], n_boot=100, controls=False, progress=False)
    assert result.probes["y"]["site1"].chosen.tolist() == [3.0]


def test_rows_of_some_tokens_must_say_which(sequences: Dataset) -> None:
    lengths = [len(t) for t in sequences.tokens or ()]
    name = next(n for n in sequences.labels if sequences.label_set(n).level == "token")
    of, some = np.repeat(np.arange(len(lengths)), lengths), np.arange(0, sum(lengths), 2)
    rows = {"site0": np.random.default_rng(0).normal(size=(len(some), 4)).astype(np.float32)}
    with pytest.raises(ValueError, match="is a token of another"):
        sweep(ArrayActivations(rows, sequence=of[some]), sequences, [name], n_boot=100, progress=False)
    right = ArrayActivations(rows, sequence=of[some], item=some)
    assert sweep(right, sequences, [name], n_boot=100, controls=False, progress=False).best(name)
