"""What a capture stores is what the model computes, whatever the batching, pooling, selection or dtype."""

from __future__ import annotations

import gc
import itertools
import re
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import probekit as pk
from probekit.activations import ActivationStore, capture, plan, prefix_hashes
from probekit.data import Dataset
from tests.models.tiny import make_tokenizer

SITES = ("blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.2.hook_resid_post", "blocks.1.mlp.hook_post")
TEXTS = (
    "the city of paris is in france.", "dog", "one two three four five six seven eight", "a happy red dog runs.",
    "rome is not in england and berlin is in germany", "the the the", "paris", "two dog and cat sleeps, cat runs.",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return pk.load_model(str(tiny_model_folder))


@pytest.fixture(scope="module")
def games():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 64, rng.integers(1, 24)) for _ in range(60)]


@pytest.fixture(scope="module")
def truth(model, games):
    """Each sequence by itself, so that no batching and no padding can have entered."""
    return [
        {site: x[0].numpy() for site, x in model.run(torch.tensor(game)[None], None, SITES).items()} for game in games
    ]


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("token_budget", [1, 40, 8192])
def test_rows_are_every_token_in_data_set_order(model, games, truth, token_budget):
    store = capture(model, games, SITES, token_budget=token_budget, progress=False)
    for site in SITES:
        close(store.read(site), np.concatenate([t[site] for t in truth]))
        assert store.width(site) == model.site(site).width
    lengths = [len(g) for g in games]
    assert store.sites == SITES
    assert len(store) == sum(lengths)
    np.testing.assert_array_equal(store.sequence, np.repeat(np.arange(60), lengths))
    np.testing.assert_array_equal(store.position, np.concatenate([np.arange(n) for n in lengths]))
    np.testing.assert_array_equal(store.token, np.concatenate(games))
    np.testing.assert_array_equal(store.item, np.arange(len(store)))


def test_shards_of_any_size_hold_the_same_rows(model, games, truth, monkeypatch):
    monkeypatch.setattr(plan, "SHARD_BYTES", 20_000)
    store = capture(model, games, SITES, progress=False)
    assert len(store.manifest.shards) > 10
    site = SITES[2]
    want = np.concatenate([t[site] for t in truth])
    close(store.read(site), want)
    rng = np.random.default_rng(1)
    for rows in (rng.permutation(len(store))[:50], np.array([5, 5, 3]), np.array([], int), rng.random(len(store)) < 0.3,
                 slice(10, 40), slice(None, None, -7), np.array([-1])):  # fmt: skip
        close(store.read(site, rows), want[rows])
    seen = 0
    for part, values in store.batches(site):
        assert part.start == seen
        close(values, want[part])
        seen = part.stop
    assert seen == len(store)
    with pytest.raises(IndexError):
        store.read(site, np.array([len(store)]))
    with pytest.raises(KeyError, match=re.escape("near it: blocks.2.hook_resid_post")):
        store.read("blocks.2.resid_post")


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_padding_never_enters_a_pooled_row(model, games, truth, pool):
    store = capture(model, games, SITES, pool=pool, progress=False)
    assert len(store) == len(games)
    for site in SITES:
        close(store.read(site), [t[site][-1] if pool == "last" else t[site].mean(axis=0) for t in truth])
    np.testing.assert_array_equal(store.position, [len(g) - 1 for g in games])
    np.testing.assert_array_equal(store.item, np.cumsum([len(g) for g in games]) - 1)


def _with_both_ends():
    """A tokenizer that puts `<s>` before a text and `</s>` after it."""
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def test_special_tokens_around_a_text_do_not_enter_its_mean(tiny_model_folder):
    long = " ".join(["the dog runs and"] * 8)  # cut to the context: the token that ends other texts is not there
    texts = [*TEXTS, "</s> red </s>", "zebra red", long]
    model = pk.load_model(str(tiny_model_folder), tokenizer=_with_both_ends())
    with pytest.warns(UserWarning, match="longer than the 24 tokens"):
        every = capture(model, texts, SITES[2], pool="all", progress=False)
    with pytest.warns(UserWarning, match="longer than the 24 tokens"):
        mean = capture(model, texts, SITES[2], pool="mean", progress=False)
    for i in range(len(texts)):
        rows = np.flatnonzero(every.sequence == i)
        own = rows[1:] if i == len(texts) - 1 else rows[1:-1]
        assert every.token[rows[0]] == 1
        close(mean.read(SITES[2], np.array([i]))[0], every.read(SITES[2], own).mean(0))
        assert mean.item[i] == every.item[own[-1]]
    assert every.token[every.sequence == len(TEXTS)].tolist()[1:4:2] == [2, 2]  # spelled out, so part of the mean


def test_what_is_averaged_decides_whether_a_folder_goes_on(model, tmp_path):
    spans = np.array([[4, 8], [0, 3]])
    data = Dataset("d", texts=("the city", "dog runs"), spans={"a": spans, "b": spans})
    capture(model, data, SITES[0], out=tmp_path / "s", pool="span:a", progress=False)
    moved = Dataset("d", texts=data.texts, spans={"a": np.array([[0, 3], [0, 3]])})
    with pytest.raises(ValueError, match=r"holds another capture .*token_fingerprint"):
        capture(model, moved, SITES[0], out=tmp_path / "s", pool="span:a", progress=False)


def test_labels_do_not_decide_whether_a_folder_goes_on(model, tmp_path):
    """A column more, another file name: the model sees the same texts, so the finished store stands."""
    (tmp_path / "one.csv").write_text("text,a\nthe city,1\ndog runs,0\na dog,1\nrome,0\n")
    (tmp_path / "two.csv").write_text("text,a,b\nthe city,1,x\ndog runs,0,y\na dog,1,x\nrome,0,y\n")
    one = pk.read_csv(tmp_path / "one.csv", text="text", label="a")
    two = pk.read_csv(tmp_path / "two.csv", text="text", label=["a", "b"])
    before = capture(model, one, SITES[0], out=tmp_path / "s", progress=False)
    ran: list[int] = []
    after = capture(_Watched(model, ran), two, SITES[0], out=tmp_path / "s", progress=False)
    assert not ran
    assert after.manifest == before.manifest
    changed = pk.Dataset("one.csv", texts=("the city", "dog sleeps", "a dog", "rome"))
    with pytest.raises(ValueError, match=r"holds another capture .*data_fingerprint"):
        capture(model, changed, SITES[0], out=tmp_path / "s", progress=False)


def test_span_pooling_of_tokens(model, games, truth):
    rng = np.random.default_rng(2)
    start = np.array([rng.integers(0, len(g)) for g in games])
    stop = np.array([rng.integers(a + 1, len(g) + 1) for a, g in zip(start, games, strict=True)])
    data = Dataset("d", tokens=tuple(games), spans={"subject": np.stack([start, stop], 1)})
    for pool in ("span", "span:subject"):
        store = capture(model, data, SITES[2], pool=pool, progress=False)
        close(store.read(SITES[2]), [t[SITES[2]][a:b].mean(0) for t, a, b in zip(truth, start, stop, strict=True)])
        np.testing.assert_array_equal(store.position, stop - 1)


def test_span_pooling_of_text_goes_through_the_tokenizer_offsets(model):
    texts = ("the city of paris is in france.", "rome is in italy")
    data = Dataset("d", texts=texts, spans={"name": np.array([[12, 17], [0, 4]]), "is": np.array([[18, 20], [4, 8]])})
    every = capture(model, texts, SITES[2], progress=False)
    names = capture(model, data, SITES[2], pool="span:name", progress=False)
    ids = [model.tokenizer.convert_tokens_to_ids(word) for word in ("paris", "rome")]
    rows = [np.flatnonzero((every.sequence == i) & (every.token == ids[i]))[0] for i in range(2)]
    close(names.read(SITES[2]), every.read(SITES[2], np.array(rows)))
    np.testing.assert_array_equal(names.token, ids)
    np.testing.assert_array_equal(names.prefix, every.prefix[rows])
    between = capture(model, data, SITES[2], pool="span:is", progress=False)  # "is", " is ": blanks belong to no token
    np.testing.assert_array_equal(between.token, [model.tokenizer.convert_tokens_to_ids("is")] * 2)
    with pytest.raises(ValueError, match="it has: name, is"):
        capture(model, data, SITES[2], pool="span", progress=False)
    with pytest.raises(ValueError, match="it has: none"):
        capture(model, texts, SITES[2], pool="span", progress=False)


@pytest.mark.parametrize("every", [2, 5])
def test_every_kth_token(model, games, truth, every):
    store = capture(model, games, SITES[2], every=every, progress=False)
    close(store.read(SITES[2]), np.concatenate([t[SITES[2]][every - 1 :: every] for t in truth]))
    assert set((store.position + 1) % every) == {0}


def test_rows_keep_some_tokens_or_some_sequences_and_the_rest_is_not_run(model, games, truth):
    whole = np.concatenate([t[SITES[2]] for t in truth])
    mask = np.random.default_rng(3).random(len(whole)) < 0.2
    mask[: len(games[0])] = False
    ran = []
    watched = _Watched(model, ran)
    store = capture(watched, games, SITES[2], rows=mask, progress=False)
    close(store.read(SITES[2]), whole[mask])
    np.testing.assert_array_equal(store.item, np.flatnonzero(mask))
    starts = np.cumsum([0, *map(len, games)])
    assert sum(ran) == sum(mask[a:b].any() for a, b in itertools.pairwise(starts))
    some = np.arange(60) % 3 == 0
    store = capture(model, games, SITES[2], pool="last", rows=some, progress=False)
    np.testing.assert_array_equal(store.sequence, np.flatnonzero(some))
    with pytest.raises(ValueError, match=r"one a sequence \(60\) or one a token"):
        capture(model, games, rows=np.ones(61, bool), progress=False)
    with pytest.raises(ValueError, match="mask of booleans"):
        capture(model, games, rows=np.arange(60), progress=False)
    with pytest.raises(ValueError, match="no row is left"):
        capture(model, games, rows=np.zeros(60, bool), progress=False)


class _Watched:
    """A model that notes how many sequences it was run on."""

    def __init__(self, model, ran):
        self._model, self._ran = model, ran

    def __getattr__(self, name):
        return getattr(self._model, name)

    def visit(self, tokens, mask, sites, receive):
        self._ran.append(len(tokens))
        self._model.visit(tokens, mask, sites, receive)


@pytest.mark.parametrize("pool", ["all", "mean"])
def test_no_site_is_kept_while_the_model_goes_on(model, games, pool):
    alive, most = weakref.WeakSet(), []

    class Fresh(_Watched):
        def visit(self, tokens, mask, sites, receive):
            def hand_over(site, value):
                value = value.clone()
                alive.add(value)
                most.append(len(alive))
                receive(site, value)

            self._model.visit(tokens, mask, sites, hand_over)

    capture(Fresh(model, None), games, model.sites, pool=pool, progress=False)
    assert len(most) >= len(model.sites)
    assert max(most) == 1


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8), ("float32", 24)])
def test_storage_dtypes_round_and_nothing_else(model, games, truth, dtype, bits, tmp_path):
    store = capture(model, games, SITES[2], dtype=dtype, out=tmp_path / dtype, progress=False)
    want = np.concatenate([t[SITES[2]] for t in truth])
    got = store.read(SITES[2])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=2.0**-bits + 1e-5, atol=1e-5)
    size = sum(p.stat().st_size for p in (tmp_path / dtype).glob("shard-*"))
    assert abs(size - want.size * (4 if dtype == "float32" else 2)) < 1000


def test_bfloat16_compute_is_near_and_is_recorded(model, games, truth):
    store = capture(model, games[:8], SITES[2], compute_dtype="bfloat16", progress=False)
    want = np.concatenate([t[SITES[2]] for t in truth[:8]])
    error = np.abs(store.read(SITES[2]) - want).max() / np.abs(want).max()
    assert 1e-5 < error < 0.05
    assert store.manifest.compute_dtype == "bfloat16"


def test_text_is_tokenised_cut_and_counted(model):
    long = " ".join(["dog"] * 40)
    with pytest.warns(UserWarning, match="1 of 9 sequences are longer than the 24 tokens"):
        store = capture(model, (*TEXTS, long), SITES[2], progress=False)
    assert store.manifest.cut == 1
    assert (store.sequence == 8).sum() == 24
    ids, _ = model.tokenize(TEXTS)
    np.testing.assert_array_equal(store.token[store.sequence < 8], np.concatenate(ids))


def test_items_of_cut_token_sequences_still_point_into_the_label_set(model):
    games = [np.arange(30), np.arange(5)]
    with pytest.warns(UserWarning, match="1 of 2 sequences"):
        store = capture(model, games, SITES[2], progress=False)
    np.testing.assert_array_equal(np.concatenate(games)[store.item], store.token)
    np.testing.assert_array_equal(store.item, [*range(24), *range(30, 35)])


def test_sequences_of_uneven_length_waste_little(model):
    rng = np.random.default_rng(4)
    games = [rng.integers(0, 64, n) for n in np.clip(rng.lognormal(2, 0.7, 500), 1, 24).astype(int)]
    shuffled = [games[i : i + 16] for i in range(0, 500, 16)]
    naive = sum(len(b) * max(map(len, b)) for b in shuffled)
    real = sum(map(len, games))
    store = capture(model, games, SITES[2], token_budget=256, progress=False)
    assert 1 - real / naive > 0.3
    assert store.manifest.padding < 0.1


lengths = st.lists(st.integers(1, 12), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 40))
def test_batches_hold_every_sequence_once_within_the_budget_at_the_least_cost(sizes, budget):
    sizes = np.array(sizes)
    batches = plan._batches(np.arange(len(sizes)), sizes, budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
    assert all(len(b) == 1 or len(b) * sizes[b].max() <= budget for b in batches)
    cost = sum(len(b) * sizes[b].max() + plan.BATCH_OVERHEAD for b in batches)
    ordered = np.sort(sizes)

    def cheapest(start):  # every way to cut the sorted order, one by one
        if start == len(ordered):
            return 0
        return min(
            (stop - start) * ordered[stop - 1] + plan.BATCH_OVERHEAD + cheapest(stop)
            for stop in range(start + 1, len(ordered) + 1)
            if stop == start + 1 or (stop - start) * ordered[stop - 1] <= budget
        )

    assert cost == cheapest(0)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=12))
def test_prefixes_are_equal_exactly_when_all_tokens_so_far_are(games):
    flat = np.concatenate([np.array(g, np.int32) for g in games])
    hashes = prefix_hashes(flat, np.array([len(g) for g in games]))
    prefixes = [tuple(g[: i + 1]) for g in games for i in range(len(g))]
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == len(set(prefixes))
    assert len(set(zip(hashes.tolist(), prefixes, strict=True))) == len(set(prefixes))


def test_the_prefix_of_a_store_survives_the_disk(model, games, tmp_path):
    store = capture(model, games, SITES[2], out=tmp_path / "s", progress=False)
    want = prefix_hashes(np.concatenate(games), np.array([len(g) for g in games]))
    np.testing.assert_array_equal(ActivationStore.open(tmp_path / "s").prefix, want)
    assert (store.prefix > 2**63).any()
    last = capture(model, games, SITES[2], pool="mean", progress=False)
    np.testing.assert_array_equal(last.prefix, want[np.cumsum([len(g) for g in games]) - 1])


def test_by_default_the_residual_stream_is_captured(model):
    store = capture(model, TEXTS, pool="last", progress=False)
    assert store.sites == model.stream_sites


def test_a_temporary_store_goes_with_its_last_reference(model):
    store = capture(model, TEXTS, pool="last", progress=False)
    path, alive = store.path, weakref.ref(store)
    assert path.is_dir()
    del store
    gc.collect()
    assert alive() is None
    assert not path.exists()


def test_it_says_what_it_will_take_and_is_silent_when_asked(model, capsys, tmp_path):
    count = len(capture(model, TEXTS, out=tmp_path / "loud"))
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(
        rf"{count} rows at 4 sites of .*; .* of memory beside the model, .* of disk in .*loud capture: about \d+ s",
        said,
    )
    capture(model, TEXTS, out=tmp_path / "quiet", progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"sites": "blocks.9.hook_resid_post"}, KeyError, "3 blocks"),
        ({"sites": ["blocks.1.resid_post"]}, KeyError, "near it"),
        ({"pool": "max"}, ValueError, "pool must be all, last, mean, span"),
        ({"pool": "last:x"}, ValueError, "pool must be"),
        ({"pool": "last", "every": 2}, ValueError, "goes with pool='all'"),
        ({"every": 0}, ValueError, "at least 1"),
        ({"dtype": "float64"}, ValueError, "dtype must be one of float32, float16, bfloat16"),
        ({"compute_dtype": "int8"}, ValueError, "compute_dtype must be"),
        ({"token_budget": 0}, ValueError, "token_budget must be positive"),
    ],
)
def test_bad_arguments_are_named(model, kwargs, error, message):
    with pytest.raises(error, match=message):
        capture(model, TEXTS, progress=False, **kwargs)


def test_activations_that_overflow_or_are_not_finite_name_site_and_place(model):
    class Broken(_Watched):
        def visit(self, tokens, mask, sites, receive):
            def spoil(site, x):
                factor = torch.where(tokens == 7, self._ran, 1.0)[..., None]
                receive(site, x * factor if site == SITES[2] else x)

            self._model.visit(tokens, mask, sites, spoil)

    games = [np.array([1, 2, 3]), np.array([4, 7]), np.array([5])]
    where = re.escape(f"activations at {SITES[2]} are not finite in sequence 1, position 1")
    with pytest.raises(ValueError, match=where):
        capture(Broken(model, float("nan")), games, SITES, progress=False)
    with pytest.raises(ValueError, match=where + ".*65,504"):
        capture(Broken(model, 1e9), games, SITES, dtype="float16", progress=False)
    capture(Broken(model, 1e9), games, SITES, dtype="bfloat16", progress=False)


def test_finite_activations_with_a_sum_beyond_float32_are_no_error(model):
    class Huge(_Watched):
        def visit(self, tokens, mask, sites, receive):
            self._model.visit(tokens, mask, sites, lambda site, x: receive(site, torch.full_like(x, 3e38)))

    store = capture(Huge(model, None), [np.array([1, 2, 3])], SITES[2], progress=False)
    assert (store.read(SITES[2]) == np.float32(3e38)).all()


def test_no_sites_is_an_error(model, games, tmp_path):
    with pytest.raises(ValueError, match="sites is empty"):
        capture(model, games, [], out=tmp_path / "store", progress=False)
