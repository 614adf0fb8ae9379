"""Edits act at the tokens named and at no others: with a cache, with padding, while generating, compiled, in TransformerLens."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import probekit as pk
from probekit import surgery
from probekit.models.editing import changed_at
from probekit.surgery import Where
from tests.models.test_editing import hooked
from tests.surgery.worlds import SITE, direction, logits, tiny, tokens

pytestmark = pytest.mark.filterwarnings("ignore:at .* the edit adds a vector")


def watch(model, site=SITE):
    """Everything that passes a site, call by call, as the layers after it see it."""
    seen = []

    def keep(h):
        seen.append(h.detach().clone())
        return h

    return seen, changed_at(model, site, keep)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "gpt_neox"])
@pytest.mark.parametrize("where", [[0], [2, -1], "prompt"])
def test_a_batch_padded_on_either_side_is_edited_where_its_sequences_alone_would_be(family, where):
    model = tiny(family)
    d = direction(model)
    long, short = tokens(1, 8), tokens(1, 5, seed=1)
    edit = surgery.steer(d, model, 4.0, where=where)
    with edit.applied(model):
        alone = [logits(model, one)[0] for one in (long, short)]
        for side in ("left", "right"):
            pad = torch.zeros(1, 3, dtype=torch.long)
            padded = torch.cat([short, pad] if side == "right" else [pad, short], 1)
            mask = torch.cat([torch.ones_like(long), (padded != 0).long()])
            position = (mask.cumsum(1) - 1).clamp(min=0)
            with torch.no_grad():
                got = model.hf(torch.cat([long, padded]), attention_mask=mask, position_ids=position).logits
            torch.testing.assert_close(got[0], alone[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(got[1][mask[1].bool()], alone[1], atol=1e-4, rtol=1e-4)
        mask = torch.cat(
            [torch.ones_like(long), torch.cat([torch.ones_like(short), torch.zeros(1, 3, dtype=torch.long)], 1)]
        )
        read = model.run(torch.cat([long, torch.cat([short, torch.zeros(1, 3, dtype=torch.long)], 1)]), mask, [SITE])[
            SITE
        ]
        one = model.run(short, None, [SITE])[SITE]
        torch.testing.assert_close(read[1, :5], one[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "opt"])
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(("where", "edited"), [("all", range(20)), ("prompt", range(6)), (Where("generated"), range(5, 20)),
                                                (Where("generated", first=False), range(6, 20)), ([1, -1], (1, 5)), ([7], (7,))])  # fmt: skip
def test_while_generating_the_tokens_named_are_edited_with_and_without_a_cache(family, cache, where, edited):
    model = tiny(family)
    d = direction(model)
    prompt = tokens(2, 6)
    mask = torch.ones_like(prompt)
    edit = surgery.fix(d, model, 8.0, where=where)
    seen, watching = watch(model)
    with edit.applied(model), watching:
        out = model.hf.generate(
            prompt,
            attention_mask=mask,
            max_new_tokens=5,
            do_sample=False,
            use_cache=cache,
            pad_token_id=0,
            eos_token_id=None,
        )
    assert out.shape == (2, 11)
    stream = torch.cat(seen, 1)[:, :10] if cache else seen[-1]
    there = (stream @ d.vector - 8.0 * d.scale).abs() < 1e-4
    wanted = torch.tensor([i in edited for i in range(10)])
    assert torch.equal(there, wanted.expand(2, -1)), there


def test_generated_prompts_of_different_lengths_padded_on_the_left():
    model = tiny()
    d = direction(model)
    long, short = tokens(1, 7), tokens(1, 4, seed=1)
    together = torch.cat([long, torch.cat([torch.zeros(1, 3, dtype=torch.long), short], 1)])
    mask = (together != 0).long()
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    plain = model.hf.generate(short, attention_mask=torch.ones_like(short), **options)
    with surgery.steer(d, model, 6.0, where="generated").applied(model):
        batch = model.hf.generate(together, attention_mask=mask, **options)
        alone = model.hf.generate(short, attention_mask=torch.ones_like(short), **options)
    assert torch.equal(batch[1, 7:], alone[0, 4:])
    assert not torch.equal(alone, plain)
    assert torch.equal(model.hf.generate(short, attention_mask=torch.ones_like(short), **options), plain)


def test_the_first_generated_token_is_affected_as_said():
    model = tiny()
    d = direction(model)
    prompt = tokens(4, 6)
    mask = torch.ones_like(prompt)
    options = {
        "max_new_tokens": 1,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    plain = model.hf.generate(prompt, attention_mask=mask, **options).logits[0]
    for first in (True, False):
        edit = surgery.steer(d, model, 6.0, where=Where("generated", first=first))
        said = edit.describe()["where"]
        assert said.endswith("affected")
        assert said.endswith("not affected") != first
        with edit.applied(model):
            got = model.hf.generate(prompt, attention_mask=mask, **options).logits[0]
        assert torch.equal(got, plain) != first


def test_only_where_a_probe_fires():
    model = tiny()
    d = direction(model)
    batch = tokens()
    plain = model.run(batch, None, [SITE])[SITE]
    limit = float((plain @ d.vector).median())
    edit = surgery.ablate(d, model, where=Where().where_probe_fires(d, limit))
    with edit.applied(model):
        got = model.run(batch, None, [SITE])[SITE]
    fired = plain @ d.vector > limit
    assert 0 < fired.float().mean() < 1
    assert torch.equal(got[~fired], plain[~fired])
    assert (got[fired] @ d.vector).abs().max() < 1e-5
    probe = pk.RidgeProbe(1.0).fit(plain.flatten(0, 1).numpy(), (plain @ d.vector > limit).flatten().numpy())
    with surgery.ablate(d, model, where=Where().where_probe_fires(probe)).applied(model):
        by_probe = model.run(batch, None, [SITE])[SITE]
    fires = torch.from_numpy(probe.predict(plain.flatten(0, 1).numpy())).view(batch.shape)
    assert torch.equal((by_probe != plain).any(-1), fires)


@pytest.mark.parametrize("what", ["all", "positions", "generated"])
def test_in_transformer_lens_as_in_hugging_face(what):
    lens = pk.load_model(hooked())
    d = direction(lens)
    batch = tokens(2, 6) % 50
    site = d.site
    if what == "generated":
        seen, watching = watch(lens, site)
        options = {"do_sample": False, "stop_at_eos": False, "verbose": False, "prepend_bos": False}
        with surgery.fix(d, lens, 8.0, where="generated").applied(lens), watching:
            lens.hf.generate(batch, max_new_tokens=4, use_past_kv_cache=False, **options)
        there = (seen[-1] @ d.vector - 8.0 * d.scale).abs() < 1e-4
        assert torch.equal(there, torch.tensor([i >= 5 for i in range(9)]).expand(2, -1))
        return
    where = "all" if what == "all" else [1, -1]
    with surgery.ablate(d, lens, where=where).applied(lens):
        got = lens.run(batch, None, [site])[site] @ d.vector
    zero = got.abs() < 1e-5
    assert torch.equal(zero, torch.tensor([what == "all" or i in (1, 5) for i in range(6)]).expand(2, -1))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_model_that_was_compiled_before_the_edit_is_edited(backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler here")
    model = tiny()
    d = direction(model)
    batch = tokens()
    compiled = torch.compile(model.hf, backend=backend)
    with torch.no_grad():
        plain = compiled(batch).logits
        for edit in (surgery.steer(d, model, 2.0, where=[0]), surgery.steer(d, model, 2.0).to_weights(model)):
            with edit.applied(model):
                got = compiled(batch).logits
                torch.testing.assert_close(got, model.hf(batch).logits, atol=1e-4, rtol=1e-4)
                assert (got - plain).abs().max() > 1e-3
            torch.testing.assert_close(compiled(batch).logits, plain)


@pytest.mark.parametrize("family", ["opt", "llama"])
@pytest.mark.parametrize("kind", ["hook_mlp_out", "hook_attn_out", "mlp.hook_post", "attn.hook_z"])
def test_some_tokens_of_what_a_layer_puts_out(family, kind):
    model = tiny(family)
    site = f"blocks.1.{kind}"
    d = direction(model, site)
    batch = tokens(2, 6)
    plain = model.run(batch, None, [site])[site]
    for where in (Where((1, -1)), Where((1, -1)).where_probe_fires(d, float((plain @ d.vector).median()))):
        with surgery.ablate(d, model, where=where).applied(model):
            got = model.run(batch, None, [site])[site]
        changed = (got != plain).any(-1)
        allowed = torch.tensor([False, True, False, False, False, True]).expand(2, -1)
        if where.fires is not None:
            allowed = allowed & (plain @ d.vector > where.threshold)
        assert torch.equal(changed, allowed)


def test_bad_places_are_refused():
    model = tiny()
    d = direction(model)
    for where in ([], ["a"], "sometimes", [True]):
        with pytest.raises(ValueError, match="where"):
            surgery.ablate(d, model, where=where)
    with pytest.raises(ValueError, match="center"):
        Where().where_probe_fires(direction(model, center=None))


@pytest.mark.parametrize(
    "options", [{"prompt_lookup_num_tokens": 2}, {"prefill_chunk_size": 2}, {"cache_implementation": "static"}]
)
@pytest.mark.parametrize("where", ["generated", [-1]])
def test_other_ways_of_generating_give_what_the_plain_one_gives(options, where):
    model = tiny()
    d = direction(model)
    prompt = tokens(1, 6)
    common = {
        "attention_mask": torch.ones_like(prompt),
        "max_new_tokens": 6,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    with surgery.steer(d, model, 8.0, where=where).applied(model):
        wanted = model.hf.generate(prompt, **common)
        assert torch.equal(model.hf.generate(prompt, **common, **options), wanted)


def test_a_static_cache_with_padding_on_the_left_and_beams():
    model = tiny()
    d = direction(model)
    short = tokens(1, 4, seed=1)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), short], 1)
    common = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for options in ({"cache_implementation": "static"}, {"num_beams": 3}):
        with surgery.steer(d, model, 8.0, where=[1, -1]).applied(model):
            alone = model.hf.generate(
                short,
                attention_mask=torch.ones_like(short),
                **common,
                **{k: v for k, v in options.items() if k == "num_beams"},
            )
            got = model.hf.generate(padded, attention_mask=(padded != 0).long(), **common, **options)
        assert torch.equal(got[:, 3:], alone)


def test_a_conversation_that_goes_on_with_its_cache():
    from transformers import DynamicCache

    model = tiny()
    d = direction(model)
    prompt = tokens(1, 8)
    common = {
        "attention_mask": torch.ones_like(prompt),
        "max_new_tokens": 5,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    with surgery.steer(d, model, 8.0, where="generated").applied(model):
        wanted = model.hf.generate(prompt, **common)
        cache = DynamicCache(config=model.hf.config)
        model.hf(prompt[:, :5], past_key_values=cache)
        assert torch.equal(model.hf.generate(prompt, past_key_values=cache, **common), wanted)


def test_a_mask_given_by_position_and_position_embeddings_in_a_batch():
    model = tiny("gpt2")
    d = direction(model)
    padded = torch.cat([torch.zeros(2, 2, dtype=torch.long), tokens(2, 5)], 1)
    mask = (padded != 0).long()
    with surgery.steer(d, model, 4.0, where=[0]).applied(model), torch.no_grad():
        llama = tiny()
        named = model.hf(padded, attention_mask=mask).logits
    with surgery.steer(direction(llama), llama, 4.0, where=[0]).applied(llama), torch.no_grad():
        assert torch.equal(llama.hf(padded, mask).logits, llama.hf(padded, attention_mask=mask).logits)
    assert named.shape[0] == 2
    for where in ([0], "prompt"):
        with surgery.ablate(d, model, layers="writers", where=where).applied(model):
            stream = model.run(tokens(2, 5), None, [SITE])[SITE] @ d.vector
        assert stream[:, 0].abs().max() < 1e-4


def test_two_threads_run_a_model_that_is_edited_at_every_token():
    model = tiny()
    given = [tokens(2, 8), tokens(3, 5, seed=1)]
    together = threading.Barrier(2)

    def read(batch):
        mask = torch.ones_like(batch, dtype=torch.bool)
        mask[0, 4:] = False
        return model.run(batch, mask, [SITE])[SITE]

    def wait(h):  # both are past the beginning of their pass before either is edited
        together.wait(60)
        return h

    with surgery.steer(direction(model), model, 8.0).applied(model):
        wanted = [read(batch) for batch in given]
        with changed_at(model, "blocks.0.hook_resid_post", wait), ThreadPoolExecutor(2) as pool:
            got = list(pool.map(read, given))
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("fires", "threshold"), [(torch.tensor([1.0, float("nan")]), 0.0), (torch.ones(2), float("nan"))]
)
def test_a_probe_that_could_never_fire_is_refused(fires, threshold):
    with pytest.raises(ValueError, match="it would never fire"):
        Where(fires=fires, threshold=threshold)
