"""With all erasers of `scrub` on, no site of the stream shows the concept; `leace` at every site at once leaves some of it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

import probekit as pk
from probekit import surgery
from probekit.activations import ActivationStore
from probekit.data import Dataset, LabelSet, as_dataset
from probekit.surgery import Where
from tests.models.test_editing import hooked
from tests.models.tiny import WORDS, make_model, make_tokenizer
from tests.surgery.test_erasers import chance, gaps
from tests.surgery.worlds import FAMILIES, SITE, direction, tiny

pytestmark = pytest.mark.filterwarnings("ignore:at .* the edit adds a vector")


def spoken(n: int = 90, classes: int = 2, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Texts of several lengths, more of the first class than of others, which like other tokens."""
    rng = np.random.default_rng(seed)
    y = np.minimum(rng.geometric(0.6, n) - 1, classes - 1)
    lengths = rng.integers(3, 13, n)
    liked = rng.random((n, 13)) < 0.6
    texts = [
        np.where(liked[i, :length], rng.integers(4, 20, length) + 18 * y[i], rng.integers(4, 64, length))
        for i, length in enumerate(lengths)
    ]
    return texts, y


def plain(model, texts, where="all", sites=None) -> ActivationStore:
    pool = "last" if where == [-1] else "all"
    return pk.capture(model, as_dataset(texts), sites or model.stream_sites, pool=pool, progress=False)


def read(model, texts, erasers, where="all", sites=None) -> ActivationStore:
    """Activations with the erasers on; of the last token only where that is the only one edited."""
    with surgery.erase(erasers, model, where=where).applied(model):
        return plain(model, texts, where, sites)


def left(store: ActivationStore, site: str, y: np.ndarray) -> float:
    """How far class means lie apart, of the standard deviation."""
    X = store.read(site).astype(np.float64)
    return float(np.abs(gaps(X, y[store.sequence])).max() / X.std())


@pytest.mark.parametrize("where", ["all", [-1]])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_read_at_any_site_and_it_is_what_the_slow_way_finds(family, where):
    model = tiny(family)
    texts, y = spoken()
    labels = LabelSet.from_values("topic", y)
    erasers = surgery.scrub(model, texts, labels, where=where, batch=16)
    assert tuple(erasers) == model.stream_sites
    erased = read(model, texts, erasers, where)
    for site in model.stream_sites:
        assert left(erased, site, y) < 1e-6
        accuracy, majority = chance(erased.read(site).astype(np.float64), y[erased.sequence])
        assert accuracy == majority

    slow: dict[str, surgery.Eraser] = {}
    one = torch.eye(model.d_model, dtype=torch.float64)
    for site in model.stream_sites:
        store = read(model, texts, slow, where, [site]) if slow else plain(model, texts, where, [site])
        slow |= surgery.leace(store, labels)
        torch.testing.assert_close(erasers[site](one), slow[site](one), atol=1e-4, rtol=1e-4)
        assert erasers[site].provenance["moved"] == pytest.approx(slow[site].provenance["moved"], rel=1e-3)

    before = plain(model, texts, where)
    at_once = read(model, texts, surgery.leace(before, labels), where)
    for site in model.stream_sites[1:]:
        assert left(before, site, y) > 1e-2
        assert left(at_once, site, y) > 1e3 * left(erased, site, y)


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("prompt", lambda position, length: position >= 0),
        ([0, -2], lambda position, length: (position == 0) | (position == length - 2)),
        (Where((4,)), lambda position, length: position == 4),  # which some texts do not have
    ],
)
def test_the_tokens_named_are_fitted_and_only_they_are_changed(where, chosen):
    model = tiny("gemma3")
    texts, y = spoken(200)
    first = model.stream_sites[0]
    erasers = surgery.scrub(model, texts, y, where=where, sites=[SITE, first])
    assert list(erasers) == [first, SITE]
    erased, before = read(model, texts, erasers, where), plain(model, texts)
    there = chosen(erased.position, np.array([len(text) for text in texts])[erased.sequence])
    for site in erasers:
        X, z = erased.read(site).astype(np.float64), y[erased.sequence]
        assert np.abs(gaps(X[there], z[there])).max() < 1e-6 * X.std()
    assert np.array_equal((before.read(first) == erased.read(first)).all(1), ~there)
    assert erasers[SITE].provenance["rows"] == there.sum()


def test_several_classes_values_and_targets():
    model = tiny("qwen3")
    texts, y = spoken(150, classes=3)
    erased = read(model, texts, surgery.scrub(model, texts, y))
    assert max(left(erased, site, y) for site in erased.sites) < 1e-6
    values = np.stack([y + np.random.default_rng(0).normal(size=150), np.array([len(text) for text in texts])], 1)
    labels = LabelSet.from_values("size", values, kind="continuous")
    erasers = surgery.scrub(model, texts, labels)
    erased = read(model, texts, erasers)
    for site in erased.sites:
        X, z = erased.read(site).astype(np.float64), values[erased.sequence]
        assert LinearRegression().fit(X, z).score(X, z) == pytest.approx(0, abs=1e-6)
        assert erasers[site].map.rank == 2
    one = surgery.scrub(model, texts, labels, target="size[1]", sites=SITE)
    assert one[SITE].provenance["targets"] == ["size[1]"]
    assert one[SITE].map.rank == 1


def test_labels_of_tokens_as_in_the_paper_and_rows_without_a_label():
    model = tiny("gpt_neox")
    texts, _ = spoken()
    ids = np.concatenate(texts)
    values = (ids % 3).astype(object)
    values[::5] = None
    labels = LabelSet.from_values("kind", values, level="token", missing="undefined")
    erasers = surgery.scrub(model, Dataset("words", tokens=tuple(texts)), labels)
    erased = read(model, texts, erasers)
    known = np.arange(len(ids)) % 5 > 0
    for site in erased.sites:
        X = erased.read(site).astype(np.float64)
        assert np.abs(gaps(X[known], ids[known] % 3)).max() < 1e-6 * X.std()
    said = erasers[SITE].provenance
    assert (said["rows"], said["left_out"]) == (known.sum(), (~known).sum())
    assert (said["method"], said["label_set"], said["where"]) == ("concept scrubbing", "kind", "at every token")
    assert said["sites_before"] == list(model.stream_sites[:2])
    assert said["data"]["name"] == "words"


def test_text_is_tokenised_as_capture_does(tmp_path):
    model = pk.load_model(make_model("llama"), tokenizer=make_tokenizer())
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 80)
    texts = [" ".join(rng.choice(WORDS[20 * k : 20 * k + 20], rng.integers(2, 9))) for k in y]
    erasers = surgery.scrub(model, texts, np.where(y == 1, "animal", "city"))
    with surgery.erase(erasers, model).applied(model):
        store = pk.capture(model, texts, model.stream_sites, progress=False)
    assert erasers[SITE].provenance["rows"] == len(store)
    assert max(left(store, site, y) for site in store.sites) < 1e-6
    loaded = surgery.Eraser.load(erasers[SITE].save(tmp_path / "eraser.safetensors"))
    assert loaded.provenance == erasers[SITE].provenance
    assert loaded.model == model.fingerprint


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-6), (torch.bfloat16, 0.05)])
def test_other_dtypes(dtype, most):
    model = tiny("gemma2", dtype)
    texts, y = spoken()
    erasers = surgery.scrub(model, texts, y)
    erased = read(model, texts, erasers)
    assert max(left(erased, site, y) for site in erased.sites) < most
    assert not any(x.is_inference() for eraser in erasers.values() for x in (eraser.map.left, eraser.map.bias))


def test_it_costs_two_passes_however_many_sites_and_leaves_the_model_alone():
    model = tiny("phi3")
    model.hf.train()
    before = model.fingerprint
    texts, y = spoken(80)
    calls: list[int] = []
    handles = [block.register_forward_hook(lambda *_: calls.append(1)) for block in model.hf.model.layers]
    for sites in (None, model.stream_sites[::3]):
        calls.clear()
        surgery.scrub(model, texts, y, batch=10, sites=sites)
        assert len(calls) == 3 * (2 * 8 + 2)  # two of the first batch to see that block by block is the same
    for handle in handles:
        handle.remove()
    assert model.fingerprint == before
    assert all(module.training for module in model.hf.modules())


def test_edited_weights_are_scrubbed_as_they_are():
    model = tiny()
    texts, y = spoken()
    with surgery.orthogonalize(direction(model), model).applied(model):
        erasers = surgery.scrub(model, texts, y)
        assert {eraser.model for eraser in erasers.values()} == {model.fingerprint}
        erased = read(model, texts, erasers)
        assert max(left(erased, site, y) for site in erased.sites) < 1e-6
    with pytest.raises(ValueError, match="was fitted in the model"):
        surgery.erase(erasers, model)


def test_what_makes_no_sense_is_refused_before_the_model_runs():
    model = tiny()
    texts, y = spoken(20)
    ran: list[int] = []
    handle = model.hf.base_model.register_forward_pre_hook(lambda *_: ran.append(1))
    tokens = LabelSet.from_values("kind", np.arange(7) % 2, level="token")
    firing = Where().where_probe_fires(direction(model))
    for change, error, words in (
        ({"sites": "blocks.9.hook_resid_post"}, KeyError, "numbered 0 to 2"),
        ({"sites": [3]}, TypeError, "not the name of a site"),
        ({"sites": "blocks.1.hook_mlp_out"}, ValueError, "not at blocks.1.hook_mlp_out$"),
        ({"sites": "blocks.1.hook_resid_pre"}, ValueError, "blocks.1.hook_resid_pre is blocks.0.hook_resid_post"),
        ({"sites": []}, ValueError, "sites is empty"),
        ({"where": "generated"}, ValueError, "is none of a given text"),
        ({"where": firing}, ValueError, "differs from site to site where a probe fires"),
        ({"where": [19]}, ValueError, "no text has a token where the edit is to act: at positions 19"),
        ({"batch": 0}, ValueError, "batch must be at least 1"),
        ({"labels": y[:-1]}, ValueError, "19 labels for 20 texts: give one for each"),
        ({"labels": tokens}, ValueError, "7 labels for .* tokens that the 20 texts have"),
        ({"labels": "topic"}, TypeError, "give the label set itself"),
        ({"labels": np.ones(20, int)}, ValueError, "one class only"),
        ({"labels": np.where(y == 1, "b", None)}, ValueError, "one class only"),
        ({"where": [int(max(map(len, texts))) - 1]}, ValueError, "shows one class"),
        ({"target": "other"}, KeyError, "no target 'other'"),
        ({"texts": [np.arange(4, 40)] * 20}, ValueError, "20 of 20 texts are longer than the context of .* 24 tokens"),
        ({"texts": ["the city"] * 20}, ValueError, "has no tokenizer"),
        ({"texts": "the city"}, TypeError, "one string"),
    ):
        with pytest.raises(error, match=words):
            surgery.scrub(model, **({"texts": texts, "labels": y} | change))
    with (
        surgery.ablate(direction(model), model).applied(model),
        pytest.raises(ValueError, match="has edits of activations on it: ablate"),
    ):
        surgery.scrub(model, texts, y)
    assert not ran
    handle.remove()
    with pytest.warns(UserWarning, match="fitted on 20 rows of 32 dimensions"):
        surgery.scrub(model, texts, y, where=[-1])
    with pytest.raises(ValueError, match="is a TransformerLens model"):
        surgery.scrub(pk.load_model(hooked()), [text % 50 for text in texts], y)
    with torch.no_grad():
        model.hf.model.layers[1].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"activations at blocks\.1\.hook_resid_post are NaN or infinite"):
        surgery.scrub(model, texts, y)


def test_other_tokens_than_those_it_was_fitted_at_are_said():
    model = tiny()
    texts = [one.numpy() for one in torch.randint(4, 40, (80, 5), generator=torch.Generator().manual_seed(0))]
    erasers = surgery.scrub(model, texts, np.arange(80) % 2, where=[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surgery.erase(erasers, model, where=[-1])
    with pytest.warns(UserWarning, match="fitted at positions -1, and are to act at every token"):
        surgery.erase(erasers, model)
