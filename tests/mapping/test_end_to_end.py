"""Two tiny language models with different tokenizers: captured, mapped, read across, patched."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import probekit as pk
from tests.mapping.worlds import save_bytes_model, save_words_model, some_texts


def test_two_models(tmp_path: Path) -> None:
    a, b = pk.load_model(save_words_model(tmp_path / "a")), pk.load_model(save_bytes_model(tmp_path / "b"))
    texts = some_texts(400, longest=7)
    label = [int(text.split()[-1] < "m") for text in texts]
    sites_a, sites_b = a.stream_sites[:2], b.stream_sites[:3]
    rows_a, rows_b = pk.mapping.paired_tokens(a, b, texts)
    stores = [
        pk.capture(model, texts, sites, rows=rows, out=tmp_path / name, progress=False)
        for model, sites, rows, name in (
            (a, sites_a, rows_a, "store-a"), (b, sites_b, rows_b, "store-b"), (b.randomized(0), sites_b, rows_b, "twin"),
        )
    ]  # fmt: skip
    maps = pk.mapping.fit(stores[0], tmp_path / "store-b", twin=stores[2], n_boot=100, progress=False)
    frame = maps.to_frame()
    assert len(frame) == 6
    # The last piece of a word tells much of which word it is: the embeddings of words map to those of their last pieces.
    figures = maps.figure(sites_a[0], sites_b[0])
    assert figures["map"]["r2"][1] > 0.5
    assert figures["map"]["top_5"][0] > 2 * maps.manifest["chance"]["top_5"]
    assert figures["shuffled"]["r2"][0] <= 0.01
    assert maps.manifest["model_a"]["fingerprint"] == a.fingerprint == maps.best().model_a
    assert maps.manifest["rows"]["train"] > 900

    # Reads what is in A's words with a probe of B: B's probe sees A's activations brought to B.
    last_a, last_b = (
        pk.capture(m, texts, s, pool="last", progress=False) for m, s in ((a, sites_a[:1]), (b, sites_b[:1]))
    )
    found = pk.mapping.transfer(
        pk.mapping.fit(last_a, last_b, n_boot=100, progress=False), "logistic", last_a, label, home=last_b, n_boot=100
    )
    assert found.best("auroc")["value"] > 0.65
    assert found.best("auroc", source="own")["value"] > found.best("auroc")["value"] - 0.05
    assert found.names == (a.name, b.name)

    patched = pk.mapping.patched_perplexity(b, a, maps[sites_a[0], sites_b[0]], texts[:40], n_boot=100)
    assert np.isfinite(patched.to_frame().perplexity).all()
    assert 0.2 < patched.replaced < 0.9
    page = maps.save_page(tmp_path / "page.html")
    assert page.stat().st_size > 100_000
    back = pk.mapping.Maps.load(maps.save(tmp_path / "maps"))
    assert back.to_frame().equals(frame)
