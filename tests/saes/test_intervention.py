"""Taking a feature out of a running model: a true name's words become less likely, a false name's do not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.stats import false_discovery_control

import probekit as pk
import saes
from probekit.activations import ArrayActivations
from probekit.data import Dataset
from probekit.models import load_model
from saes.comparing.causal import causal_agreement
from saes.naming.names import Evidence
from saes.naming.readouts import Readouts, asked
from saes.naming.running import Runner, runner_of
from saes.naming.templates import template_states
from saes.scoring.feature_scores import halves
from tests.models.tiny import CONFIGS, WORDS, make_model, make_tokenizer

SEQUENCES, LENGTH, WIDTH = 80, 10, 12


class Rows(SimpleNamespace):
    """What is read of `SparseFeatures`."""

    def __len__(self):
        return len(self.token)


@pytest.fixture(scope="module")
def world():
    """A model, an SAE at its last site whose feature 0 writes "cat" and feature 1 anything, and where features fire."""
    model = load_model(make_model("llama"), tokenizer=make_tokenizer())
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 46, (SEQUENCES, LENGTH)).astype(np.int32)
    cat = model.tokenizer.encode("cat", add_special_tokens=False)[0]
    gain = model.hf.model.norm.weight.detach()
    decoder = torch.nn.functional.normalize(torch.randn(WIDTH, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    decoder[0] = torch.nn.functional.normalize(model.hf.lm_head.weight[cat].detach() * gain, dim=0)
    n = SEQUENCES * LENGTH
    dense = (rng.random((n, WIDTH)) < [0.3, 0.3, *[0.9] * 10]) * (2 + rng.random((n, WIDTH)))
    features = Rows(
        matrix=sparse.csc_array(dense.astype(np.float32)), width=WIDTH, token=tokens.ravel(),
        sequence=np.arange(n) // LENGTH, position=np.arange(n) % LENGTH, item=np.arange(n),
        prefix=np.arange(n).astype(np.uint64), manifest=SimpleNamespace(site=model.stream_sites[-1]),
    )  # fmt: skip
    sae = SimpleNamespace(W_dec=decoder, cfg=SimpleNamespace(normalize_activations="none"))
    return model, Dataset("made", tokens=tuple(tokens)), sae, features


def called(feature: int, text: str, source: str = "vocabulary") -> saes.Name:
    figures = dict.fromkeys(
        ("precision", "recall", "f1", "balanced_accuracy", "hard_accuracy", "precision_low", "recall_low",
         "balanced_accuracy_low", "hard_accuracy_low"), 0.9,
    )  # fmt: skip
    return saes.Name(feature, text, source, "fair", Evidence(**figures, threshold=0.1, rows=100, p=0.0), merit=0.9)


def test_a_true_name_holds_and_a_false_one_does_not(world):
    model, data, sae, features = world
    names = saes.Names((called(0, "before words like “cat”"), called(1, "before words like “cat”")), WIDTH)
    checked = saes.intervene(names, sae, features, model, data)
    true, false = checked[0].check, checked[1].check
    assert true.holds
    assert true.effect < 3 * abs(true.control)
    assert true.low <= true.effect <= true.high < 0
    assert not false.holds
    assert true.rows > 20
    assert "check_effect" in checked.to_frame()


@pytest.mark.parametrize("text", ["words like “cat”", "text about “cat”"])
def test_a_name_of_the_text_at_hand_is_read_from_a_later_activation(text, world):
    model, data, sae, features = world
    early, late = model.stream_sites[1], model.stream_sites[2]
    way = template_states(model, ["cat"], late)[0] - template_states(model, WORDS, late).mean(0)
    decoder = sae.W_dec.clone()
    decoder[0] = torch.nn.functional.normalize(torch.from_numpy(way), dim=0)
    here = Rows(**vars(features) | {"manifest": SimpleNamespace(site=early)})
    pushed = SimpleNamespace(W_dec=decoder, cfg=sae.cfg)
    true, false = (
        saes.intervene(saes.Names((called(f, text),), WIDTH), pushed, here, model, data)[f].check for f in (0, 1)
    )
    assert true.what == f"place between the mean word (0) and “cat” (1) at {late}"
    assert true.holds
    assert not false.holds
    assert true.effect < -abs(true.control)


def test_a_name_of_the_text_at_hand_is_not_checked_after_the_last_layer(world):
    model, data, sae, features = world
    names = saes.Names((called(0, "words like “cat”"),), WIDTH)
    assert saes.intervene(names, sae, features, model, data)[0].check is None


def test_checks_of_one_call_share_a_correction(world):
    model, data, sae, features = world
    names = saes.Names(tuple(called(f, "before words like “cat”") for f in range(6)), WIDTH)
    checks = [name.check for name in saes.intervene(names, sae, features, model, data)]
    assert [check.q for check in checks] == pytest.approx(list(false_discovery_control([c.p for c in checks])))
    alone = saes.intervene(saes.Names(names.names[:1], WIDTH), sae, features, model, data)[0].check
    assert alone.q == alone.p == checks[0].p < checks[0].q
    assert not replace(alone, q=0.06).holds
    assert not replace(alone, beyond_high=0.1).holds


@pytest.mark.parametrize(
    ("template", "site"), [("words like “{}”", 0), ("text about “{}”", 1), ("before words like “{}”", -1)]
)
def test_names_drawn_at_random_hold_no_more_often_than_they_may(template, site):
    """Rows all feel the same step: however many there are, they must not make a random name significant."""
    model = load_model(make_model("gpt2"), tokenizer=make_tokenizer())
    p = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(4, 46, (SEQUENCES, LENGTH)).astype(np.int32)
        n, width = SEQUENCES * LENGTH, 40
        dense = (rng.random((n, width)) < 0.3) * (2 + rng.random((n, width)))
        features = Rows(
            matrix=sparse.csc_array(dense.astype(np.float32)), width=width, token=tokens.ravel(),
            sequence=np.arange(n) // LENGTH, position=np.arange(n) % LENGTH, item=np.arange(n),
            prefix=np.arange(n).astype(np.uint64), manifest=SimpleNamespace(site=model.stream_sites[site]),
        )  # fmt: skip
        decoder = torch.nn.functional.normalize(
            torch.randn(width, 32, generator=torch.Generator().manual_seed(seed)), dim=1
        )
        sae = SimpleNamespace(W_dec=decoder, cfg=SimpleNamespace(normalize_activations="none"))
        names = saes.Names(tuple(called(i, template.format(w)) for i, w in enumerate(rng.choice(WORDS, 20))), width)
        found = saes.intervene(names, sae, features, model, Dataset("made", tokens=tuple(tokens)), seed=seed)
        p += [name.check.p for name in found if name.check is not None]
    assert len(p) > 60
    assert np.mean(np.array(p) <= 0.05) <= 0.12
    assert 0.35 < np.mean(p) < 0.65


def test_a_name_is_read_by_its_whole_word_and_in_its_own_place(world):
    model = world[0]
    readouts = Readouts(model, model.stream_sites[0], None, ("dog", "rome"))
    assert readouts.of(called(0, "before words like “a“b”")).later is None
    assert "“say “cat””" in readouts.of(called(0, "words like “say “cat””")).what
    for text in ("words like “ ”", "before words like “”", "a sentence", "words near “cat”"):
        assert readouts.of(called(0, text)) is None


def test_where_there_are_few_other_names_other_features_take_their_place(world):
    """Labels of a single target: there is nothing else that a name could say."""
    model, data, sae, features = world
    rows = np.random.default_rng(0).normal(size=(600, 32)).astype(np.float32)
    late = model.stream_sites[2]
    label = pk.LabelSet("on", (rows[:, 0] > 0).astype(int), "binary", "token", ("no", "yes"), ("A",))
    probes = pk.sweep(
        ArrayActivations({late: rows}, sequence=np.arange(600) // 10), labels={"on": label}, controls=False, n_boot=100,
        progress=False,
    )  # fmt: skip
    decoder = sae.W_dec.clone()
    decoder[0] = torch.from_numpy(np.asarray(probes.direction("on", "A", site=late).vector))
    wide = torch.cat(
        [decoder, torch.nn.functional.normalize(torch.randn(30, 32, generator=torch.Generator().manual_seed(1)), dim=1)]
    )
    matrix = sparse.csc_array(np.hstack([features.matrix.toarray(), np.zeros((len(features), 30), np.float32)]))
    here = Rows(
        **vars(features) | {"manifest": SimpleNamespace(site=model.stream_sites[1]), "matrix": matrix, "width": 42}
    )
    names = saes.Names((called(0, "A is yes", "labels"),), 42)
    pushed = SimpleNamespace(W_dec=wide, cfg=sae.cfg)
    check = saes.intervene(names, pushed, here, model, data, probes=probes)[0].check
    assert check.what == f"log odds by the probes at {late}"
    assert check.holds
    assert check.p <= 0.05


def test_names_judged_on_other_sequences_are_refused(world):
    model, data, sae, features = world
    groups = np.arange(SEQUENCES) // 10
    judged = halves(features, None, 0, groups)[1].name
    names = saes.Names((called(0, "before words like “cat”"),), WIDTH, halved="groups", judged=judged)
    with pytest.raises(ValueError, match=r"halved otherwise .* give the groups= that saes.name had"):
        saes.intervene(names, sae, features, model, data)
    assert saes.intervene(names, sae, features, model, data, groups=groups)[0].check is not None


def test_rows_looked_at_are_of_the_half_that_judged(world, monkeypatch):
    model, data, sae, features = world
    seen = []
    run = Runner.run
    monkeypatch.setattr(Runner, "run", lambda self, places, *edits: (seen.append(places), run(self, places, *edits))[1])
    name = (called(0, "before words like “cat”"),)
    split = np.array(["train", "test"] * (SEQUENCES // 2))
    own = replace(data, split=split)
    saes.intervene(saes.Names(name, WIDTH, halved="split"), sae, features, model, own)
    assert (np.concatenate(seen)[:, 0] % 2 == 1).all()
    judged = halves(features, None, 0, None, split)[1].name
    with pytest.raises(ValueError, match="halved otherwise"):
        saes.intervene(saes.Names(name, WIDTH, halved="split", judged=judged), sae, features, model, data)
    seen.clear()
    groups = np.arange(SEQUENCES) // 10
    saes.intervene(saes.Names(name, WIDTH, halved="groups"), sae, features, model, data, groups=groups)
    _, report, _ = halves(features, None, 0, groups)
    assert set(np.concatenate(seen)[:, 0] // 10) == set(report.group)


def test_nothing_is_left_behind_in_the_model(world):
    model, data, sae, features = world
    tokens = torch.from_numpy(np.stack(data.tokens)[:4].astype(np.int64))
    with torch.no_grad():
        before = model.hf(tokens).logits
        saes.intervene(saes.Names((called(0, "before words like “cat”"),), WIDTH), sae, features, model, data)
        assert torch.equal(model.hf(tokens).logits, before)


def test_names_from_labels_need_probes(world):
    model, data, sae, features = world
    names = saes.Names((called(0, "A is yes", "labels"),), WIDTH)
    with pytest.raises(ValueError, match="probes="):
        saes.intervene(names, sae, features, model, data)
    mixed = saes.Names((called(0, "before words like “cat”"), called(1, "A is yes", "labels")), WIDTH)
    with pytest.warns(UserWarning, match="1 names are not checked"):
        found = saes.intervene(mixed, sae, features, model, data)
    assert [one.check is None for one in found] == [False, True]


def test_an_sae_that_normalises_its_input_is_refused(world):
    model, data, sae, features = world
    other = SimpleNamespace(W_dec=sae.W_dec, cfg=SimpleNamespace(normalize_activations="layer_norm"))
    with pytest.raises(ValueError, match="normalises"):
        saes.intervene(saes.Names((), WIDTH), other, features, model, data)


def test_feature_and_probe_agree_when_they_are_the_same_direction(world):
    model, data, sae, features = world
    decoder = sae.W_dec.numpy().astype(np.float64)
    activations = np.random.default_rng(0).normal(size=(500, 32))
    found = causal_agreement([(0, decoder[0]), (0, decoder[1])], sae, features, activations, model, data)
    assert found.correlation[0] == pytest.approx(1, abs=1e-4)
    assert found.correlation[1] < 0.7
    assert abs(found.chance).max() < 0.5
    assert (found.low <= found.correlation + 1e-6).all()


@pytest.mark.parametrize("library", ["hf", "transformer_lens"])
def test_logits_are_computed_where_they_are_read_and_nowhere_else(library, world):
    if library == "hf":
        model, data = world[:2]
    else:
        lens = pytest.importorskip("transformer_lens")
        config = lens.HookedTransformerConfig(
            n_layers=2, d_model=16, n_ctx=16, d_head=8, n_heads=2, d_vocab=50, act_fn="gelu", seed=0
        )
        model, data = pk.load_model(lens.HookedTransformer(config)), world[1]
    rng = np.random.default_rng(0)
    places = np.stack([np.arange(70), rng.integers(0, LENGTH, 70)], 1)
    seen = []

    def watch(module, arguments, output):
        seen.append(tuple((output if isinstance(output, torch.Tensor) else output.logits).shape))

    handle = model.hf.register_forward_hook(watch)
    ((found, _),) = runner_of(model, data, model.stream_sites[-1]).run(places, None)
    handle.remove()
    assert {shape[:2] for shape in seen} == {(1, 1)}
    with torch.no_grad():
        output = model.hf(torch.from_numpy(np.stack(data.tokens).astype(np.int64)))
    logits = output if isinstance(output, torch.Tensor) else output.logits
    torch.testing.assert_close(found, logits[places[:, 0], places[:, 1]].float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_what_comes_before_a_row_is_computed_once_and_changes_nothing(family, monkeypatch):
    model = load_model(make_model(family), tokenizer=make_tokenizer())
    rng = np.random.default_rng(0)
    data = Dataset("made", tokens=tuple(rng.integers(4, 46, n).astype(np.int32) for n in (9, 3, 12, 1)))
    places = np.array([[0, 8], [1, 2], [2, 7], [3, 0], [2, 0]])
    site, later = model.stream_sites[1], model.stream_sites[-1]
    steps = torch.randn(2, len(places), model.d_model, generator=torch.Generator().manual_seed(0))
    for read in (None, later):
        runner = replace(runner_of(model, data, site), later=read)
        cached = runner.run(places, None, *steps)
        with monkeypatch.context() as patched:
            patched.setattr(Runner, "_before", lambda self, tokens: None)
            whole = runner.run(places, None, *steps)
        for one, other in zip(cached, whole, strict=True):
            for part, same in zip(one, other, strict=True):
                torch.testing.assert_close(part, same, atol=2e-5, rtol=1e-4)
        at = 0 if read is None else 1
        assert (cached[1][at] - cached[0][at]).abs().max() > 1e-3
    with torch.no_grad():
        logits = model.hf(torch.from_numpy(data.tokens[2][:8].astype(np.int64))[None]).logits[0, -1]
    torch.testing.assert_close(runner_of(model, data, site).run(places, None)[0][0][2], logits, atol=2e-5, rtol=1e-4)


def test_a_conjunction_is_read_whatever_its_classes_are_called():
    summaries = [
        SimpleNamespace(name="a", targets=("X", "Y"), classes=("black", "black and white")),
        SimpleNamespace(name="b", targets=("X",), classes=("black", "red")),
    ]
    probes = SimpleNamespace(label_sets=summaries)
    assert asked("X is black and white and Y is black", probes) == [("a", "X", "black and white"), ("a", "Y", "black")]
    assert asked("b: X is black and X is red", probes) == [("b", "X", "black"), ("b", "X", "red")]
    assert asked("X is black and Z is black", probes) == []
