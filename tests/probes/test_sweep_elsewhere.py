"""Out-of-distribution sets as activations that are already there: the same figures as with a model, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from probekit.activations import ActivationStore, ArrayActivations, capture
from probekit.data import Dataset, LabelSet
from probekit.models import Model, load_model
from probekit.probes import SweepResult, sweep

QUIET = {"n_boot": 100, "progress": False}


def gpt2(width: int = 16, seed: int = 0) -> Model:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=30, n_positions=12, n_embd=width, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    return load_model(GPT2LMHeadModel(config))


@pytest.fixture(scope="module")
def tiny() -> Model:
    return gpt2()


def dataset(seed: int, name: str, n: int = 80) -> Dataset:
    rng = np.random.default_rng(seed)
    tokens = tuple(rng.integers(0, 30, 8) for _ in range(n))
    flat = np.concatenate(tokens)
    labels = {
        "tok": LabelSet("tok", flat % 2, "binary", "token", ("0", "1")),
        "seq": LabelSet("seq", np.array([int(t[-1]) % 2 for t in tokens]), "binary", "sequence", ("0", "1")),
    }
    return Dataset(name, tokens=tokens, labels=labels, groups=np.arange(n) // 2)


def figures(result: SweepResult) -> dict[tuple[str, ...], tuple[float, ...]]:
    frame = result.to_frame()
    frame = frame[frame.source != "random_weights"]
    keys = frame[["site", "label_set", "target", "data", "source", "metric"]].astype(str)
    numbers = frame[["value", "low", "high", "n"]].fillna(-1.0)
    return {tuple(k): tuple(v) for k, v in zip(keys.to_numpy(), numbers.to_numpy(dtype=float), strict=True)}


@pytest.mark.parametrize("pool", ["last", "all"])
def test_stores_give_the_figures_of_the_model(tiny: Model, tmp_path: Path, pool: str) -> None:
    here, there = dataset(0, "here"), dataset(1, "there")
    twice = replace(there, tokens=(*(there.tokens or ())[:-1], (here.tokens or ())[0]))  # perhaps a training sequence
    labels = ["seq"] if pool == "last" else ["tok"]
    of_model = sweep(tiny, here, labels, pool=pool, ood={"there": twice}, max_rows=300, **QUIET)
    store = capture(tiny, here, out=tmp_path / "here", pool=pool, progress=False)
    other = capture(tiny, twice, out=tmp_path / "there", pool=pool, progress=False)
    for given in (other, tmp_path / "there"):
        of_store = sweep(store, here, labels, ood={"there": (given, twice)}, max_rows=300, **QUIET)
        theirs = figures(of_model)
        assert {key[3] for key in theirs} == {"test", "there"}
        assert figures(of_store).keys() == theirs.keys()
        for key, values in figures(of_store).items():
            np.testing.assert_allclose(values, theirs[key], atol=1e-6, err_msg=str(key))
    assert of_store.manifest["ood"]["there"]["fingerprint"] == twice.fingerprint()


def test_arrays_without_texts_bring_values() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=12)

    def draw(n: int, effect: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
        y = rng.integers(0, 2, n)
        return {"site": (rng.normal(size=(n, 12)) + effect * np.outer(y, direction)).astype(np.float32)}, y

    arrays, y = draw(300, 2.0)
    same, y_same = draw(100, 2.0)
    turned, y_turned = draw(100, -2.0)
    elsewhere = {
        "same": (same, {"y": np.where(y_same, "yes", "no").tolist()}),
        "turned": (ArrayActivations(turned), {"y": np.where(y_turned, "yes", "no").tolist()}),
        "none": (same, {"y": ["no"] * 100}),
    }
    result = sweep(arrays, labels={"y": np.where(y, "yes", "no").tolist()}, ood=elsewhere, controls=False, **QUIET)
    frame = result.to_frame()
    auroc = frame[(frame.metric == "auroc") & (frame.target == "mean")].set_index("data")["value"]
    assert auroc["same"] > 0.9 > 0.1 > auroc["turned"]
    assert np.isnan(auroc["none"])
    rows = result.label_set("y").rows
    assert rows["same"] == rows["turned"] == 100  # arrays without prefixes share none with training


def test_rows_that_training_has_seen_do_not_count(tiny: Model, tmp_path: Path) -> None:
    here = dataset(0, "here")
    store = capture(tiny, here, out=tmp_path / "here", pool="last", progress=False)
    result = sweep(store, here, ["seq"], ood={"again": (store, here)}, controls=False, **QUIET)
    rows = result.label_set("seq").rows
    assert rows["again"] == rows["test"]
    assert any("'again' do not count" in note for note in result.notes)


def test_what_does_not_fit_is_refused(tiny: Model, tmp_path: Path) -> None:
    here, there = dataset(0, "here"), dataset(1, "there")
    sites = tiny.stream_sites
    store = capture(tiny, here, out=tmp_path / "here", pool="last", progress=False)

    def stored(name: str, model: Model = tiny, data: Dataset = there, **more: object) -> ActivationStore:
        return capture(model, data, out=tmp_path / name, progress=False, **{"pool": "last", **more})  # type: ignore[arg-type]

    fits = stored("fits")
    wide = stored("wide", gpt2(width=32))
    cases: list[tuple[object, type[Exception], str]] = [
        (there, ValueError, "only a model can read it"),
        (fits, TypeError, "must be a pair"),
        ((fits, there.tokens), TypeError, "must be a pair"),
        ((fits, {"seq": [0] * 80}), ValueError, "give its Dataset"),
        ((fits, here), ValueError, "was captured from data 'there'"),
        ((stored("few", sites=sites[:1]), there), ValueError, "no activations at blocks.0.hook_resid_post"),
        ((wide, there), ValueError, "32 wide at blocks.0.hook_resid_pre, training 16"),
        ((stored("other", gpt2(seed=1)), there), ValueError, "another model than training"),
        ((stored("mean", pool="mean"), there), ValueError, "another pool than training: mean"),
        ((fits, replace(there, labels={})), KeyError, "no label set 'seq'"),
        (({s: np.zeros((79, 16), np.float32) for s in sites}, there), ValueError, "79 rows, but the data has 80"),
        ((tmp_path / "nowhere", there), FileNotFoundError, "no activation store"),
        ((3, there), TypeError, "out-of-distribution set 'there' is a int"),
    ]
    for given, kind, said in cases:
        with pytest.raises(kind, match=said):
            sweep(store, here, ["seq"], ood={"there": given}, controls=False, **QUIET)  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="pass activations as the source too"):
        sweep(tiny, here, ["seq"], ood={"there": (fits, there)}, controls=False, **QUIET)
    arrays = {"site": np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)}
    y = np.arange(80) % 2
    with pytest.raises(ValueError, match="70 values in 'there', but its activations are of 80 sequences"):
        sweep(arrays, labels={"y": y}, ood={"there": (arrays, {"y": y[:70]})}, controls=False, **QUIET)
    with pytest.raises(ValueError, match="2 is no class of training, which has 0, 1"):
        sweep(arrays, labels={"y": y}, ood={"there": (arrays, {"y": y + 1})}, controls=False, **QUIET)


def test_token_rows_need_their_items(tiny: Model) -> None:
    here, there = dataset(0, "here"), dataset(1, "there")
    stores = [capture(tiny, data, pool="all", progress=False) for data in (here, there)]
    site = tiny.stream_sites[0]
    arrays = ArrayActivations(
        {site: stores[1].read(site)}, sequence=stores[1].sequence, item=stores[1].item[::-1].copy()
    )
    with pytest.raises(ValueError, match="is a token of another"):
        sweep(stores[0], here, ["tok"], sites=site, ood={"there": (arrays, there)}, controls=False, **QUIET)
