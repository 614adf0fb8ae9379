"""Probes carried across: where the map is known to be exact, through which ends, beside what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.activations import ArrayActivations
from probekit.mapping import LinearMap, Maps, Transfer, fit, transfer
from probekit.mapping.probe_transfer import _split
from tests.mapping.worlds import rotation, save_words_model, some_texts

QUICK = {"n_boot": 100, "progress": False}


def world(n: int = 300, noise: float = 0.0, seed: int = 0) -> tuple[ArrayActivations, ArrayActivations, np.ndarray]:
    """B's `there` is A's `here` turned; the label is which side of a plane of A a row lies on. B's `noise` knows nothing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    labels = (X @ rng.normal(size=6) > 0).astype(int)
    Y = 3 * X @ rotation(6).T + 1 + noise * rng.normal(size=X.shape)
    b = {"there": Y.astype(np.float32), "noise": rng.normal(size=(n, 4)).astype(np.float32)}
    return ArrayActivations({"here": X.astype(np.float32)}), ArrayActivations(b), labels


def figure(found: Transfer, source: str, metric: str = "accuracy", site_b: str | None = "there") -> dict[str, float]:
    frame = found.to_frame()
    frame = frame[(frame.source == source) & (frame.metric == metric)]
    return dict((frame[frame.site_b == site_b] if source in ("map", "home") else frame).iloc[0])


def test_through_an_exact_map_a_probe_reads_as_at_home() -> None:
    a, b, labels = world()
    maps = fit(a, b, **QUICK)
    found = transfer(maps, "logistic", a, labels, home=b, n_boot=200)
    for metric in ("accuracy", "auroc"):
        there, home = figure(found, "map", metric), figure(found, "home", metric)
        for name in ("value", "low", "high", "valid", "n"):
            assert there[name] == pytest.approx(home[name], abs=1e-3)
        assert there["value"] > 0.9
        assert figure(found, "own", metric)["value"] == pytest.approx(there["value"], abs=0.06)
    assert figure(found, "map", site_b="noise")["value"] < 0.75
    assert figure(found, "chance")["value"] == pytest.approx(
        max(labels[maps.part == 2].mean(), 1 - labels[maps.part == 2].mean()), abs=0.2
    )
    assert figure(found, "chance", "auroc")["value"] == 0.5
    assert found.best()["site_b"] == "there"
    assert found.table().shape == (1, 2)
    assert found.table("auroc")[0, 0] == figure(found, "map", "auroc")["value"]
    np.testing.assert_array_equal(found.plot().data[0].z, found.table())
    assert "model B's probe through the map, here to there" in found.summary()


def test_the_probe_through_the_map_is_the_probe_pulled_back() -> None:
    a, b, labels = world(noise=1.0)
    maps = fit(a, b, **QUICK)
    sweep = pk.sweep(b, labels={"side": labels}, controls=False, progress=False, n_boot=100)
    found = transfer(maps, sweep, a, {"side": labels}, home=b, n_boot=100)
    rows = np.flatnonzero(maps.part == 2)
    stack = sweep.probes["side"]["there"]
    guess = stack.predict(maps["here", "there"].apply(a.read("here", rows)))[:, 0].numpy()
    assert figure(found, "map")["value"] == np.mean(guess == labels[rows])
    # The sweep has the same split: its own figure is the one at home.
    frame = sweep.to_frame()
    own = frame[
        (frame.site == "there") & (frame.metric == "accuracy") & (frame.source == "model") & (frame.target == "mean")
    ]
    assert figure(found, "home")["value"] == pytest.approx(float(own.value.iloc[0]))
    assert not found.notes


def test_the_wrong_way_round_is_refused() -> None:
    a, b, labels = world()
    maps = fit(a, b, **QUICK)
    named = {
        **maps.manifest,
        "model_a": {"name": "A", "fingerprint": "aa"},
        "model_b": {"name": "B", "fingerprint": "bb"},
    }
    maps = Maps(**{**vars(maps), "manifest": named})
    for name, activations in (("bb", b), ("aa", a)):
        activations.manifest = type(
            "M",
            (),
            {
                "model_fingerprint": name,
                "data_fingerprint": "",
                "sequences": 300,
                "tokenizer_fingerprint": "",
                "pool": "last",
                "selection": "",
            },
        )()
    with pytest.raises(ValueError, match="these maps lead the other way: the activations"):
        transfer(maps, "ridge", b, labels, home=a)
    with pytest.raises(ValueError, match="these maps lead the other way: home"):
        transfer(maps, "ridge", a, labels, home=a)
    a.manifest.model_fingerprint = "cc"
    with pytest.raises(ValueError, match="the activations are of another model"):
        transfer(maps, "ridge", a, labels, home=b)


@pytest.mark.parametrize("kind", ["continuous", "multiclass", "missing"])
def test_labels_of_every_kind(kind: str) -> None:
    a, b, labels = world(400)
    X = a.read("here")
    values: list[object] = {
        "continuous": (X[:, 0] + X[:, 1]).tolist(),
        "multiclass": [["low", "mid", "high"][i] for i in np.digitize(X[:, 0], [-0.5, 0.5])],
        "missing": labels.tolist(),
    }[kind]
    named = pk.LabelSet.from_values("label", values)
    if kind == "missing":
        named.values[::7] = -1
    maps = fit(a, b, **QUICK)
    found = transfer(maps, "ridge", a, named, home=b, n_boot=100)
    metrics = ("r2", "spearman") if kind == "continuous" else ("accuracy", "auroc")
    assert set(found.to_frame().metric) == set(metrics)
    for metric in metrics:
        assert figure(found, "map", metric)["value"] == pytest.approx(figure(found, "home", metric)["value"], abs=0.02)
        assert figure(found, "map", metric)["value"] > 0.75
    if kind == "missing":
        assert figure(found, "map")["n"] == (named.values[maps.part == 2] >= 0).sum()


def test_given_stacks_are_matched_by_site_and_class() -> None:
    a, b, labels = world()
    maps = fit(a, b, **QUICK)
    words = pk.LabelSet.from_values("side", ["right" if y else "left" for y in labels])
    sweep = pk.sweep(b, labels={"side": words}, controls=False, progress=False, n_boot=100)
    stacks = sweep.probes["side"]
    found = transfer(maps, stacks["there"], a, words, n_boot=100)
    assert found.sites_b == ("there",)
    assert figure(found, "map")["value"] > 0.9
    assert any("may have seen" in note for note in found.notes)
    by_site = transfer(maps, stacks, a, words, n_boot=100)
    assert by_site.sites_b == ("there", "noise")
    turned = pk.LabelSet("side", 1 - words.values, "binary", "sequence", ("right", "left"))
    assert figure(transfer(maps, stacks, a, turned, n_boot=100), "map") == figure(by_site, "map")
    with pytest.raises(ValueError, match="classes"):
        transfer(maps, stacks, a, pk.LabelSet.from_values("side", ["up" if y else "down" for y in labels]))
    with pytest.raises(KeyError, match="no map leads to a site of these probes"):
        transfer(maps, {"elsewhere": stacks["there"]}, a, words)
    other_seed = pk.sweep(b, labels={"side": words}, controls=False, progress=False, n_boot=100, seed=3)
    assert any("seed 3" in note for note in transfer(maps, other_seed, a, words, n_boot=100).notes)


def test_a_sweep_that_was_split_otherwise_is_said() -> None:
    a, b, labels = world()
    groups = np.arange(300) // 5
    maps = fit(a, b, groups=groups, **QUICK)
    for given, said in ((None, 1), (groups, 0), (groups + 7, 0), (np.arange(300) // 10, 1)):
        sweep = pk.sweep(b, labels={"side": labels}, groups=given, controls=False, progress=False, n_boot=100)
        notes = transfer(maps, sweep, a, {"side": labels}, groups=groups, n_boot=100).notes
        assert sum("split otherwise" in note for note in notes) == said
    maps = fit(a, b, **QUICK)
    more_a, more_b, more = world(200)
    sweep = pk.sweep(more_b, labels={"side": more}, controls=False, progress=False, n_boot=100)
    notes = transfer(maps, sweep, more_a, {"side": more}, n_boot=100).notes  # other rows, split alike
    assert not any("trained on texts" in note for note in notes)
    notes = transfer(maps, sweep, a, {"side": labels}, n_boot=100).notes
    assert any("split otherwise" in note for note in notes)
    older = replace(sweep, manifest={k: v for k, v in sweep.manifest.items() if k != "splits"})
    notes = transfer(maps, older, more_a, {"side": more}, n_boot=100).notes
    assert any("is not known: the probes may" in note for note in notes)


def test_rows_that_the_maps_never_saw_are_split_anew() -> None:
    a, b, _ = world()
    maps = fit(a, b, **QUICK)
    more_a, more_b, more = world(200)
    found = transfer(maps, "lda", more_a, more, home=more_b, n_boot=100)
    assert figure(found, "map")["n"] == 40
    assert any("split anew" in note for note in found.notes)


def test_rows_of_unknown_texts_may_overlap_and_the_note_says_so() -> None:
    a, b, labels = world()
    maps = fit(a, b, **QUICK)
    some_a, some_b = ({site: x.read(site)[:250] for site in x.sites} for x in (a, b))
    found = transfer(maps, "lda", some_a, labels[:250], home=some_b, n_boot=100)
    assert any("may be ones the maps were fitted on" in note for note in found.notes)


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two models of one tokenizer on the same texts, each token and the mean of each text; labels and groups of two texts."""
    folder = tmp_path_factory.mktemp("models")
    texts = some_texts(90)
    found: dict[str, Any] = {"texts": texts, "groups": np.arange(90) // 2}
    found["labels"] = [int(text.split()[-1] < "m") for text in texts]
    for name, seed in (("a", 0), ("b", 1)):
        model = pk.load_model(save_words_model(folder / name, seed))
        for pool in ("all", "mean"):
            found[name, pool] = pk.capture(model, texts, model.stream_sites[1:2], pool=pool, progress=False)
    return found


def drawn_as_test(
    maps: Maps, captured: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[Transfer, set[int]]:
    """What `transfer` finds on the means of texts with these maps, and the texts that it was tested on."""
    seen = {}

    def split(*given: Any) -> Any:
        seen["rows"], *others = _split(*given)
        return seen["rows"], *others

    monkeypatch.setattr("probekit.mapping.probe_transfer._split", split)
    found = transfer(
        maps, "logistic", captured["a", "mean"], captured["labels"], home=captured["b", "mean"], n_boot=100, **options
    )
    return found, set(captured["a", "mean"].sequence[seen["rows"][2]].tolist())


@pytest.mark.parametrize("regrouped", [False, True])
def test_a_text_that_the_map_was_fitted_on_is_no_test_text_in_another_pool(
    regrouped: bool, captured: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    maps = fit(captured["a", "all"], captured["b", "all"], groups=captured["groups"], controls=False, **QUICK)
    maps = Maps.load(maps.save(tmp_path / "maps"))
    of_row = captured["a", "all"].sequence
    fitted, tests = (set(of_row[np.isin(maps.part, parts)].tolist()) for parts in ((0, 1), (2,)))
    options = {"groups": captured["groups"]} if regrouped else {}
    found, tested = drawn_as_test(maps, captured, monkeypatch, **options)
    assert tested == tests
    assert not tested & fitted
    assert any("other rows of the maps' texts" in note for note in found.notes)


def test_maps_saved_without_their_texts_say_that_test_texts_may_be_known(
    captured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = captured["a", "all"], captured["b", "all"]
    plain = replace(fit(*ends, controls=False, **QUICK), sequence=None)
    of_row = captured["a", "all"].sequence
    assert drawn_as_test(plain, captured, monkeypatch)[1] == set(
        of_row[plain.part == 2].tolist()
    )  # each text is its own group
    grouped = replace(fit(*ends, groups=captured["groups"], controls=False, **QUICK), sequence=None)
    found, _ = drawn_as_test(grouped, captured, monkeypatch)
    assert any("split anew; they are of the maps' texts" in note for note in found.notes)


def test_texts_of_one_part_alone_cannot_be_read(captured: dict[str, Any]) -> None:
    maps = fit(captured["a", "all"], captured["b", "all"], controls=False, **QUICK)
    part = np.full(len(maps.part), -1, np.int8)
    part[maps.part == 0] = 0
    lone = replace(maps, part=part)
    with pytest.raises(ValueError, match="no text of the maps' valid or test part"):
        transfer(lone, "logistic", captured["a", "mean"], captured["labels"], home=captured["b", "mean"], n_boot=100)


def test_a_map_fitted_without_correspondence_carries_nothing() -> None:
    a, b, labels = world(1000)
    order = np.random.default_rng(0).permutation(1000)
    shuffled = ArrayActivations({site: b.read(site)[order] for site in b.sites})
    maps = fit(a, shuffled, **QUICK)
    stack = pk.sweep(b, labels={"side": labels}, controls=False, progress=False, n_boot=100).probes["side"]
    found = transfer(maps, stack, a, {"side": labels}, n_boot=100)
    assert abs(figure(found, "map", "auroc")["value"] - 0.5) < 0.3


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m, a, b, y: transfer(m, "ridge", a, y), ValueError, "needs home="),
        (lambda m, a, b, y: transfer(m, "svm", a, y, home=b), ValueError, "no probe family 'svm'"),
        (lambda m, a, b, y: transfer(m, 3, a, y, home=b), TypeError, "give a SweepResult"),
        (lambda m, a, b, y: transfer(m, "ridge", a, "side", home=b), TypeError, "one string"),
        (lambda m, a, b, y: transfer(m, "ridge", a, y[:-1], home=b), ValueError, "299 values"),
        (lambda m, a, b, y: transfer(m, "ridge", a, _one_class(y, m.part), home=b), ValueError, "one class of 'rare' only"),
        (lambda m, a, b, y: transfer(m, "ridge", a, {"x": y, "y": y}, home=b), TypeError, "one label set at a time"),
        (lambda m, a, b, y: transfer(m, "ridge", a, y, home=b, n_boot=3), ValueError, "n_boot"),
        (lambda m, a, b, y: transfer(m, "ridge", {"z": a.read("here")}, y, home=b), KeyError, "none of the sites"),
        (lambda m, a, b, y: transfer(m, "ridge", a, y, home={"z": b.read("there")}), KeyError, "home has none"),
        (lambda m, a, b, y: transfer(m, "ridge", a, y, home={"there": b.read("there")[1:]}), ValueError, "299 rows"),
    ],
)  # fmt: skip
def test_bad_input(call: Callable[..., object], error: type[Exception], words: str) -> None:
    a, b, labels = world()
    maps = _maps(a, b)
    with pytest.raises(error, match=words):
        call(maps, a, b, labels)


def _one_class(labels: np.ndarray, part: np.ndarray) -> pk.LabelSet:
    return pk.LabelSet.from_values("rare", np.where(part == 0, 0, labels).tolist())


def _maps(a: ArrayActivations, b: ArrayActivations) -> Maps:
    return fit(a, b, controls=False, **QUICK)


def test_the_transpose_of_a_map_is_not_its_inverse() -> None:
    """Why the direction matters: what carries a step does not carry a reading."""
    a, b, _ = world()
    there, back = _maps(a, b)["here", "there"], fit(b, a, controls=False, **QUICK)["there", "here"]
    rows = torch.from_numpy(a.read("here"))
    torch.testing.assert_close(back.apply(there.apply(rows)), rows, rtol=1e-3, atol=1e-3)
    assert (rows @ there.matrix.T @ there.matrix - rows).abs().max() > 1
    assert isinstance(back, LinearMap)
