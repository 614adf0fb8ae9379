"""Names and numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.report import wording
from probekit.report.wording import SPACE


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ("hook_embed", "at the embedding"),
        ("blocks.0.hook_resid_pre", "at the embedding"),
        ("blocks.0.hook_resid_post", "after block 0"),
        ("blocks.11.hook_resid_post", "after block 11"),
        ("blocks.3.hook_mlp_out", "at blocks.3.hook_mlp_out"),
    ],
)
def test_sites_in_a_sentence(site: str, words: str) -> None:
    assert wording.site_name(site) == words


def test_the_embedding_is_never_called_layer_0() -> None:
    sites = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert wording.site_ticks(sites) == ["emb", "0", "1"]
    assert wording.axis_title(sites) == "after block"
    assert wording.site_names(sites) == "at the embedding and after blocks 0 and 1"


def test_ticks_of_other_sites_are_short_and_stay_different() -> None:
    sites = [
        "blocks.2.hook_resid_post",
        "blocks.2.hook_attn_out",
        "blocks.2.attn.hook_z",
        "blocks.2.mlp.hook_post",
        "ln_final.hook_normalized",
    ]
    assert wording.site_ticks(sites) == ["2 out", "2 attn", "2 heads", "2 neurons", "final norm"]
    assert wording.axis_title(sites) == "site"
    long = [f"a.site.whose.name.has.no.end.{i}.and.still.goes.on" for i in range(3)]
    assert len(set(wording.site_ticks(long))) == 3
    clash = ["blocks.0.hook_resid_pre", "hook_embed"]
    assert wording.site_ticks(clash) == clash


def test_numbers() -> None:
    assert wording.format_score(0.9312, "accuracy") == f"93.1{SPACE}%"
    assert wording.format_score(0.9312, "auroc") == "0.931"
    assert wording.format_score(math.nan, "accuracy") == "–"
    assert wording.format_interval(0.93, 0.941, "accuracy") == f"93.0–94.1{SPACE}%"
    assert wording.format_interval(-0.1, 0.2, "r2") == "−0.100 to 0.200"
    assert wording.format_interval(math.nan, 0.2, "r2") == ""
    assert wording.format_count(12345) == "12,345"
    assert wording.join_words(["a", "b", "c"]) == "a, b and c"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200), st.integers(3, 60))
def test_shortened_text_fits_and_keeps_both_ends(text: str, width: int) -> None:
    short, whole = wording.shorten(text, width), " ".join(text.split())
    assert len(short) <= width
    assert short == whole or (whole.startswith(short.split("…")[0]) and whole.endswith(short[short.rindex("…") + 1 :]))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=100))
def test_text_for_plotly_has_no_tags(text: str) -> None:
    assert "<" not in wording.plain(text)
    assert ">" not in wording.plain(text)


@pytest.mark.parametrize(
    ("text", "typeset"),
    [
        ("by -0.5 at blocks.3", "by −0.5 at blocks.3"),
        ("(-4.03 to -.15)", "(−4.03 to −.15)"),
        ("GPT-2 next-token 3-4", "GPT-2 next-token 3-4"),
        ("at -3e-05", f"at −3{SPACE}×{SPACE}10⁻⁵"),
        ("1.5e+06 items", f"1.5{SPACE}×{SPACE}10⁶ items"),
        ("--strength -1", "--strength −1"),
    ],
)
def test_minus_signs_and_powers_are_typeset(text: str, typeset: str) -> None:
    assert wording.with_minus(text) == typeset
