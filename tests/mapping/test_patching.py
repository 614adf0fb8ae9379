"""Perplexity with the stream replaced, against the plain model and against a run by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.mapping import LinearMap, fit, paired_tokens, patched_perplexity
from probekit.mapping import patching as module
from probekit.mapping.alignment import common_ends, token_ends
from probekit.models import Model
from tests.mapping.worlds import save_bytes_model, save_words_model, some_texts

TEXTS = some_texts(30, longest=8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model, Model]:
    folder = tmp_path_factory.mktemp("two")
    return (
        pk.load_model(save_words_model(folder / "words")),
        pk.load_model(save_bytes_model(folder / "bytes")),
        pk.load_model(save_bytes_model(folder / "bos", bos=True)),
    )


def plain_perplexity(model: Model, texts: list[str]) -> float:
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor(model.tokenizer(text)["input_ids"])[None]
        with torch.no_grad():
            loss = model.hf(input_ids=ids, labels=ids).loss
        total, count = total + float(loss) * (ids.shape[1] - 1), count + ids.shape[1] - 1
    return float(np.exp(total / count))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_model_mapped_to_itself_is_the_plain_one(models: tuple[Model, ...], which: int) -> None:
    model = models[which]
    for site in (model.stream_sites[0], model.stream_sites[2], "blocks.1.hook_mlp_out"):
        found = patched_perplexity(
            model, model, LinearMap.identity(model.site(site).width, site, site), TEXTS, n_boot=100
        )
        frame = found.to_frame().set_index("condition")
        assert frame.perplexity["plain"] == pytest.approx(plain_perplexity(model, TEXTS), rel=1e-5)
        assert frame.perplexity["mapped"] == pytest.approx(frame.perplexity["plain"], rel=1e-6)
        assert found.replaced == 1.0
        if frame.perplexity["mean"] > frame.perplexity["plain"]:
            assert found.recovered("mapped")[0] == pytest.approx(1, abs=1e-4)
            assert found.recovered("mean")[0] == 0
        assert frame.perplexity["shuffled"] != pytest.approx(frame.perplexity["plain"], rel=1e-6)
        assert (frame.low <= frame.perplexity).all()
        assert (frame.perplexity <= frame.high).all()


def test_a_fitted_map_to_itself_is_as_good(models: tuple[Model, ...]) -> None:
    model, texts = models[0], some_texts(200)
    site = model.stream_sites[2]
    rows, _ = paired_tokens(model, model, texts, at="tokens")
    store = pk.capture(model, texts, [site], rows=rows, progress=False)
    maps = fit(store, store, controls=False, n_boot=100, progress=False)
    assert maps.figure(site, site)["map"]["r2"][0] == pytest.approx(1, abs=1e-6)
    found = patched_perplexity(model, model, maps[site, site], TEXTS, n_boot=100).to_frame().set_index("condition")
    assert found.perplexity["mapped"] == pytest.approx(found.perplexity["plain"], rel=1e-4)


def test_a_run_by_hand(models: tuple[Model, ...]) -> None:
    """Two tokenizers: each text alone, the stream put in with a hook of the test's own."""
    a, b, _ = models
    site_a, site_b = a.stream_sites[3], b.stream_sites[1]
    rng = np.random.default_rng(0)
    texts = [*TEXTS[:9], "the café, berlin 日本 cat"]
    there = LinearMap(torch.from_numpy(rng.normal(size=(24, 32)) * 0.3), torch.ones(24), "ridge", site_a, site_b)
    found = patched_perplexity(b, a, there, texts, n_boot=100)
    layer = b.hf.model.layers[0]
    replaced = own = 0
    for i, text in enumerate(texts):
        one, two = token_ends(a, [text])[0], token_ends(b, [text])[0]
        in_a, in_b = common_ends(one.ends, two.ends)
        ids_a, ids_b = (torch.from_numpy(each.ids)[None] for each in (one, two))
        with torch.no_grad():
            mapped = a.hf(input_ids=ids_a, output_hidden_states=True).hidden_states
        assert len(mapped) == 4
        rows = there.apply(a.run(ids_a, None, [site_a])[site_a][0, torch.from_numpy(in_a)].clone())

        def put(module, args, output, rows=rows, in_b=in_b):
            h = (output if isinstance(output, torch.Tensor) else output[0]).clone()
            for at, row in zip(in_b, rows, strict=True):
                h[0, at] = row
            return h if isinstance(output, torch.Tensor) else (h, *output[1:])

        handle = layer.register_forward_hook(put)
        with torch.no_grad():
            loss = b.hf(input_ids=ids_b, labels=ids_b).loss
        handle.remove()
        assert found.losses["mapped"][i] == pytest.approx(float(loss) * (ids_b.shape[1] - 1), rel=1e-4)
        replaced, own = replaced + len(in_b), own + ids_b.shape[1]
    assert found.replaced == pytest.approx(replaced / own)
    assert 0.2 < found.replaced < 0.9
    assert (found.tokens == [len(b.tokenizer(t)["input_ids"]) - 1 for t in texts]).all()


def test_portions_change_nothing_but_who_is_shuffled_with_whom(
    models: tuple[Model, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, _ = models
    there = LinearMap(torch.ones(24, 32) / 32, torch.zeros(24), "ridge", a.stream_sites[1], b.stream_sites[1])
    whole = patched_perplexity(b, a, there, TEXTS, n_boot=100)
    monkeypatch.setattr(module, "_TEXTS", 3)
    parts = patched_perplexity(b, a, there, TEXTS, n_boot=100)
    for name in ("plain", "mapped", "mean"):
        np.testing.assert_allclose(parts.losses[name], whole.losses[name], rtol=1e-4)
    assert np.isfinite(parts.losses["shuffled"]).all()


def test_shuffled_takes_another_text_as_far_through_it() -> None:
    mapped = [
        torch.arange(4.0)[:, None],
        torch.empty(0, 1),
        torch.arange(10.0, 12)[:, None],
        torch.arange(20.0, 28)[:, None],
    ]
    found = [rows[:, 0].tolist() for rows in module._of_others(mapped)]
    assert found == [[10, 10, 11, 11], [], [20, 24], [0, 0, 1, 1, 2, 2, 3, 3]]


def test_the_mean_is_of_the_places_that_are_replaced(models: tuple[Model, ...]) -> None:
    model = models[0]
    site = model.stream_sites[3]
    found = patched_perplexity(model, model, LinearMap.identity(32, site, site), TEXTS, n_boot=100)
    own = [model.run(torch.tensor(model.tokenizer(t)["input_ids"])[None], None, [site])[site][0, 1:] for t in TEXTS]
    mean = torch.cat(own).mean(0)
    logits = model.hf.lm_head(model.hf.model.norm(mean)).log_softmax(-1).detach()
    for i, text in enumerate(TEXTS):
        ids = model.tokenizer(text)["input_ids"]
        first = model.hf(input_ids=torch.tensor(ids[:1])[None]).logits[0, 0].log_softmax(-1).detach()
        slow = -float(first[ids[1]]) - sum(float(logits[t]) for t in ids[2:])
        assert found.losses["mean"][i] == pytest.approx(slow, rel=1e-4)


def test_texts_beyond_the_context_are_cut_and_said(models: tuple[Model, ...]) -> None:
    words, pieces, _ = models
    there = LinearMap(torch.ones(24, 32) / 32, torch.zeros(24), "ridge", words.stream_sites[1], pieces.stream_sites[1])
    found = patched_perplexity(pieces, words, there, [" ".join(["berlin"] * 40), *TEXTS], n_boot=100)
    assert len(found.notes) == 2
    assert "1 of 31 texts" in found.notes[0]


def test_position_zero_stays_where_asked(models: tuple[Model, ...]) -> None:
    model = models[1]  # puts no special token before a text
    site = model.stream_sites[1]
    there = LinearMap.identity(24, site, site)
    whole, rest = (patched_perplexity(model, model, there, TEXTS, n_boot=100, first=first) for first in (True, False))
    tokens = rest.tokens.sum() + len(TEXTS)
    assert (whole.replaced, rest.replaced) == (1.0, pytest.approx(1 - len(TEXTS) / tokens))


def test_groups_are_drawn_together(models: tuple[Model, ...]) -> None:
    model = models[0]
    there = LinearMap.identity(32, model.stream_sites[1], model.stream_sites[1])
    groups = np.arange(30) // 3
    found = patched_perplexity(model, model, there, TEXTS, groups=groups, n_boot=100)
    assert (found.draws.reshape(100, 10, 3) == found.draws.reshape(100, 10, 3)[..., :1]).all()
    alone = patched_perplexity(model, model, there, TEXTS, groups=["same"] * 30, n_boot=100)
    assert np.isnan(alone.to_frame().low).all()


def test_bad_input(models: tuple[Model, ...], tmp_path: Path) -> None:
    a, b, _ = models
    there = LinearMap(torch.ones(24, 32), torch.zeros(24), "ridge", a.stream_sites[1], b.stream_sites[1])
    with pytest.raises(ValueError, match="wrong way round"):
        patched_perplexity(a, b, there, TEXTS)
    with pytest.raises(ValueError, match="two texts or more"):
        patched_perplexity(b, a, there, TEXTS[:1])
    with pytest.raises(TypeError, match="one string"):
        patched_perplexity(b, a, there, "the cat")
    with pytest.raises(ValueError, match="does not name its sites"):
        patched_perplexity(b, a, LinearMap(torch.ones(24, 32), torch.zeros(24), "ridge"), TEXTS)
    with pytest.raises(KeyError, match="no site"):
        patched_perplexity(
            b, a, LinearMap(torch.ones(24, 32), torch.zeros(24), "x", "blocks.7.hook_resid_post", "z"), TEXTS
        )
    other = LinearMap(torch.ones(24, 32), torch.zeros(24), "x", a.stream_sites[1], b.stream_sites[1], "0123")
    with pytest.raises(ValueError, match="another model A"):
        patched_perplexity(b, a, other, TEXTS)
    view = LinearMap(torch.ones(24, 32), torch.zeros(24), "x", a.stream_sites[1], "ln_final.hook_normalized")
    with pytest.raises(ValueError, match="read but not changed"):
        patched_perplexity(b, a, view, TEXTS)
    with pytest.raises(ValueError, match="2 entries for 30 texts"):
        patched_perplexity(b, a, there, TEXTS, groups=[0, 1])
    with pytest.raises(ValueError, match="n_boot"):
        patched_perplexity(b, a, there, TEXTS, n_boot=1)
