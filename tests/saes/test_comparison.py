"""Features beside probes: planted features tie with the probe and point its way, and everything named is in the frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import false_discovery_control

import probekit as pk
import saes
from probekit.activations import ArrayActivations
from probekit.data import Dataset, LabelSet
from probekit.probes.intervals import Estimate
from saes.comparing.causal import CausalAgreement
from saes.comparing.page import _means
from saes.comparing.sparse_probes import SparseProbes
from saes.scoring.columns import ColumnName

SITE = "blocks.0.hook_resid_post"


class Planted:
    """The SAE whose features are the planted ones."""

    def __init__(self, directions: np.ndarray) -> None:
        import torch
        from sae_lens import StandardSAE, StandardSAEConfig

        width, d = directions.shape
        self.sae = StandardSAE(StandardSAEConfig(d_in=d, d_sae=width, device="cpu"))
        inverse = np.linalg.pinv(directions)  # exact where there are no more features than dimensions
        with torch.no_grad():
            self.sae.W_dec.copy_(torch.from_numpy(directions).float())
            self.sae.W_enc.copy_(torch.from_numpy(inverse).float())
            self.sae.b_enc.fill_(-0.3)
            self.sae.b_dec.fill_(0.0)
        self.sae.cfg.metadata["hook_name"] = SITE


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(12, 24))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    on = rng.random((6000, 12)) < 0.2
    rows = ((on * (1 + rng.random((6000, 12)))) @ directions).astype(np.float32)
    activations = ArrayActivations({SITE: rows}, sequence=np.arange(6000) // 15)
    labels = LabelSet("on", on[:, :4].astype(int), "binary", "token", ("no", "yes"), tuple("ABCD"))
    probes = pk.sweep(activations, labels={"on": labels}, controls=False, n_boot=100, max_rows=3000, progress=False)
    return Planted(directions).sae, activations, labels, probes


@pytest.fixture(scope="module")
def compared(world):
    sae, activations, labels, probes = world
    return saes.compare(probes, sae, activations, labels, counts=(1, 2, 4), max_rows=3000, n_boot=200)


def test_planted_features_are_worth_the_probe(compared):
    assert compared.best.feature.tolist() == [0, 1, 2, 3]
    assert compared.best.coverage > 0.98
    assert compared.reconstruction.mean_f1 > 0.98
    assert list(compared.sparse.estimates) == ["1 feature", "2 features", "4 features", "all features", "dense"]
    assert compared.largest == "all features"
    assert set(compared.verdicts().verdict) == {"no difference"}
    assert (compared.overlap.feature == [0, 1, 2, 3]).all()
    assert (compared.overlap.cosine > 0.5).all()
    # With 12 directions in the data, one of 12 decoder vectors is always near: no cosine is beyond chance.
    assert compared.overlap.chance > 0.5


def test_everything_stands_in_the_frame_and_the_summary(compared):
    frame = compared.to_frame()
    assert len(frame) == 4
    assert frame.verdict.eq("no difference").all()
    assert {"f1", "f1_reconstructed", "auroc_1_feature", "auroc_dense", "cosine", "cosine_p", "in_span_of_4"} <= set(
        frame
    )
    text = compared.summary()
    assert "no difference 4" in text
    assert "coverage" in text


def test_the_figure_has_its_three_panels(compared):
    figure = compared.plot()
    names = [trace.name for trace in figure.data if trace.name]
    assert names == [
        "probes on features", "dense probe", "F1 of the best feature", "F1 from precise detectors",
        "cosine with the nearest feature", "by chance",
    ]  # fmt: skip
    curve = figure.data[1]
    assert curve.y[0] == pytest.approx(np.nanmean(compared.sparse.estimates["1 feature"].value))


def test_a_worse_sae_loses_to_the_probe(world):
    sae, activations, labels, probes = world
    import copy

    import torch

    worse = copy.deepcopy(sae)
    with torch.no_grad():
        worse.W_enc.copy_(torch.randn(worse.W_enc.shape, generator=torch.Generator().manual_seed(0)) * 0.2)
        worse.b_enc.fill_(-0.5)
    found = saes.compare(probes, worse, activations, labels, counts=(1, 2), max_rows=3000, n_boot=200)
    assert set(found.verdicts("1 feature").verdict) == {"probe better"}


def test_stability_and_names_are_held_together(world):
    sae, activations, labels, probes = world
    names = saes.name(sae, activations, labels)
    assert [name.feature for name in names] == [0, 1, 2, 3]
    found = saes.compare(
        probes, sae, activations, labels, others=[sae], names=names, counts=(1,), max_rows=1000, n_boot=100
    )
    assert found.stability.cosine.min() > 0.99
    assert found.named.sum() == 4
    assert "named 1.000, not named 1.000" in found.summary()
    means = _means(found).set_index("")
    assert means.loc["features over seeds, matched cosine", "mean"] == pytest.approx(1)
    assert means.loc["- features with a name", "95 % interval, or beside it"].startswith("difference ")
    assert means.loc["probe in the span of 1 feature", "mean"] > 0.3


def test_cosines_are_corrected_over_the_labels(compared):
    p = np.array([0.01, np.nan, 0.04, 0.9])
    found = replace(compared, overlap=replace(compared.overlap, p=p))
    assert found.cosine_q[[0, 2, 3]] == pytest.approx(false_discovery_control(p[[0, 2, 3]]))
    assert np.isnan(found.cosine_q[1])
    assert "(q <= 0.05) for 33% of 3 labels" in found.summary()
    assert list(found.to_frame().cosine_q.round(3).dropna()) == [0.03, 0.06, 0.9]


def test_what_the_sweep_lacks_is_said(world):
    sae, activations, labels, probes = world
    other = LabelSet("off", labels.values, "binary", "token", ("no", "yes"), labels.targets)
    with pytest.raises(KeyError, match="no label set 'off'"):
        saes.compare(probes, sae, activations, other)
    with pytest.raises(ValueError, match="both the model and the data"):
        saes.compare(probes, sae, activations, labels, data=["a"])


def test_the_page_opens_alone_and_escapes_the_labels(world, tmp_path):
    sae, activations, labels, probes = world
    targets = ("<script>alert(1)</script>", "B", "C", "D")
    hostile = LabelSet("on", labels.values, "binary", "token", ("no", "yes"), targets)
    probes = pk.sweep(
        activations, labels={"on": hostile}, controls=False, n_boot=100, max_rows=1000, probe="ridge", progress=False
    )
    found = saes.compare(probes, sae, activations, hostile, counts=(1,), max_rows=1000, n_boot=100)
    html = found.save_page(tmp_path / "compared.html", command="probekit sae compare").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "of 4" in html
    assert found.sae in html
    assert "iframe" in found._repr_html_()


def one_class(world):
    """Two label sets with columns that never or always hold: squares of a board of which D4 is never empty, and a flag."""
    _, activations, labels, _ = world
    on = labels.values
    board = np.stack([np.select([on[:, 0] == 1, on[:, 1] == 1], [0, 1], 2), 1 - on[:, 0]], 1)
    classes = ("mine and yours", "theirs", "empty")
    tile = LabelSet("tile", board, "multiclass", "token", classes, ("A1", "D4"))
    flags = np.c_[on[:, 2], np.zeros(len(on), int), np.ones(len(on), int)]
    flag = LabelSet("flag", flags, "binary", "token", ("no", "yes"), ("C", "never", "always"))
    sets = {"tile": tile, "flag": flag}
    return sets, pk.sweep(activations, labels=sets, controls=False, n_boot=100, max_rows=1500, progress=False)


def test_a_class_that_never_occurs_is_not_defined_and_the_others_are(world, tmp_path):
    sae, activations, *_ = world
    sets, probes = one_class(world)
    found = saes.compare(probes, sae, activations, list(sets.values()), counts=(1,), max_rows=1500, n_boot=100)
    frame = found.to_frame().set_index(["target", "class"])
    nothing = [("D4", "empty"), ("never", "yes"), ("always", "yes")]
    undefined = frame.index.isin(nothing)
    assert (frame.verdict.eq("not defined") == undefined).all()
    for column in ("f1", "f1_reconstructed", "difference", "low", "high", "cosine", "cosine_p", "in_span_of_1"):
        assert (frame[column].isna() == undefined).all(), column
    assert (frame.nearest[undefined] == -1).all()
    assert frame.nearest["A1", "mine and yours"] == 0
    text = found.summary()
    assert "not defined 3" in text
    assert "nan" not in text
    html = found.save_page(tmp_path / "compared.html").read_text(encoding="utf-8")
    assert "3 of 9" in html
    assert "nan to" not in html
    assert len(found.plot().data) > 4


def test_what_the_sweep_does_not_know_is_still_an_error(world):
    sae, activations, labels, probes = world
    other = LabelSet("on", labels.values, "binary", "token", ("no", "yes"), tuple("WXYZ"))
    with pytest.raises(KeyError, match="no target 'W'"):
        saes.compare(probes, sae, activations, other)
    other = LabelSet("on", labels.values, "binary", "token", ("no", "maybe"), labels.targets)
    with pytest.raises(KeyError, match="no class 'maybe'"):
        saes.compare(probes, sae, activations, other)


def test_groups_hold_in_every_part(world):
    sae, activations, labels, probes = world
    groups = np.arange(400) // 10
    tokens = tuple(np.full(15, i) for i in range(400))
    data = Dataset("d", tokens=tokens, labels={"on": labels}, groups=groups)
    features = saes.encode(sae, activations, progress=False)
    asked = {"features": features, "counts": (1,), "max_rows": 3000, "n_boot": 100}
    one = saes.compare(probes, sae, activations, labels, groups=groups, **asked)
    other = saes.compare(probes, sae, activations, data, **asked)
    assert one.to_frame().equals(other.to_frame())
    assert one.sparse.estimates["dense"].clusters.tolist() == [8] * 4
    assert one.best.rows == 3000
    assert one.reconstruction.low < saes.reconstruct(features, labels, groups=groups).mean_f1


def test_effects_of_a_probe_without_direction_are_not_defined_and_rows_are_one_a_group():
    from saes.comparing.causal import causal_agreement
    from tests.saes.page_world import GAMES, world

    w = world()
    data = Dataset("games", tokens=tuple(w.features.token.reshape(GAMES, -1)))
    feature = int(np.diff(w.features.matrix.indptr).argmax())
    direction = w.sae.W_dec[feature].detach().numpy()
    pairs = [(feature, direction), (feature, np.full(32, np.nan))]
    rows = w.store.read("blocks.1.hook_resid_post")
    found = causal_agreement(pairs, w.sae, w.features, rows, w.model, data)
    assert found.correlation[0] > 0.9
    assert np.isnan(found.correlation).tolist() == np.isnan(found.chance).tolist() == [False, True]
    grouped = causal_agreement(pairs, w.sae, w.features, rows, w.model, data, groups=np.arange(GAMES) // 10)
    assert grouped.rows[0] <= 6 < found.rows[0]


def test_the_page_says_what_the_control_of_the_effects_is(compared):
    from saes.comparing.page import _READING

    assert "random directions" in _READING["effects"]
    assert "another feature" not in _READING["effects"]


def test_features_of_another_sae_are_refused_everywhere():
    model = pk.load_model("othello-mini")
    games = pk.testbeds.othello.sample_games(20, seed=3)
    site = "blocks.2.hook_resid_post"
    store = pk.capture(model, games, site, progress=False)
    one, other = (saes.load(f"othello-mini/{name}") for name in (site, "blocks.1.hook_resid_post"))
    features = saes.encode(one, store, progress=False)
    tile = games.label_set("tile")
    result = pk.sweep(store, games, ["tile"], probe="difference_in_means", controls=False, n_boot=100, progress=False)
    with pytest.raises(ValueError, match="the features are of the SAE with fingerprint"):
        saes.name(other, features, tile)
    with pytest.raises(ValueError, match="the features are of the SAE with fingerprint"):
        saes.compare(result, other, store, tile, features=features)
    strange = replace(result, manifest=result.manifest | {"model": {"name": "other", "fingerprint": "0123"}})
    with pytest.raises(ValueError, match=r"probes are of 'other' \(0123\), but the activations are of"):
        saes.compare(strange, one, store, tile, features=features)
    names = saes.Names((), features.width, site)
    with pytest.raises(ValueError, match="the features are of the SAE with fingerprint"):
        saes.intervene(names, other, features, model, games)
    assert list(names.to_frame()[["feature", "text", "precision", "recall", "shuffled"]]) == [
        "feature", "text", "precision", "recall", "shuffled",
    ]  # fmt: skip


def test_saved_and_read_back_it_says_the_same(compared, world, tmp_path):
    sae, _activations, _labels, _probes = world
    again = saes.Comparison.load(compared.save(tmp_path / "one"))
    assert again.summary() == compared.summary()
    assert again.to_frame().equals(compared.to_frame())
    assert (again.names, again.site, again.sae, again.largest) == (
        compared.names,
        compared.site,
        compared.sae,
        compared.largest,
    )
    assert again.save_page(tmp_path / "again.html").read_text() == compared.save_page(tmp_path / "one.html").read_text()
    full = replace(
        compared,
        named=np.arange(12) % 2 == 0,
        stability=saes.stability([sae, sae]),
        causal=CausalAgreement(*np.full((4, 4), 0.5), np.full(4, 7)),
    )
    both = saes.Comparison.load(full.save(tmp_path / "one"))  # over what was there
    assert both.summary() == full.summary()
    assert "named" in both.summary()
    assert both.to_frame().equals(full.to_frame())


def test_a_damaged_comparison_is_refused(compared, tmp_path):
    with pytest.raises(FileNotFoundError, match="no comparison in"):
        saes.Comparison.load(tmp_path)
    folder = compared.save(tmp_path / "one")
    tensors = folder / "comparison.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(ValueError, match="holds no comparison"):
        saes.Comparison.load(folder)
    folder = compared.save(tmp_path / "two")
    (folder / "comparison.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no comparison"):
        saes.Comparison.load(folder)


def test_verdicts_are_corrected_over_labels(compared):
    rng = np.random.default_rng(0)
    labels, draws = 200, 1000
    # Nothing differs: dense and sparse have the same spread about the same value.
    estimate = compared.sparse.estimates["dense"]
    value = 0.8 + rng.normal(0, 0.01, (2, labels))
    drawn = value[:, None] + rng.normal(0, 0.01, (2, draws, labels))
    names = tuple(ColumnName("on", str(i), "yes") for i in range(labels))
    clusters = np.full(labels, 100)
    one, other = (Estimate(estimate.metric, v, d, clusters) for v, d in zip(value, drawn, strict=True))
    said = SparseProbes(names, np.zeros((labels, 1), int), {"all features": other, "dense": one}, (1, 1, 1)).verdicts(
        "all features"
    )
    assert 2 <= (said.verdict != "no difference").sum() <= 25  # about one in twenty
    assert (said.q <= 0.05).sum() == 0
    one.value[:20] += 0.1
    one.draws[:, :20] += 0.1
    said = SparseProbes(names, np.zeros((labels, 1), int), {"all features": other, "dense": one}, (1, 1, 1)).verdicts(
        "all features"
    )
    assert (said.q <= 0.05)[:20].all()
    assert (said.q <= 0.05)[20:].sum() <= 3
