"""What a page shows of features agrees with a slow reading of the dense matrix; what does not belong together is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import saes
from probekit.data import LabelSet
from probekit.models.unembedding import logit_effects
from saes.naming.judging import nearest_features
from saes.overlap import overlap, unit
from saes.page.card_boards import Boards
from saes.page.card_data import directions_of, nearest_probes
from saes.page.cards import BINS, HARD, MIDDLE, TOP, card_of
from tests.saes.page_world import GAMES, HOSTILE, SITE, SQUARES, world


@pytest.fixture(scope="module")
def w():
    return world()


@pytest.fixture(scope="module")
def dense(w):
    return w.features.matrix.toarray()


def written(path):
    """The data within a page."""
    text = path.read_text()
    found = re.search(r'<section class="scripted".*?<script type="application/json">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def page(w, tmp_path, **options):
    return saes.save_page(tmp_path / "page.html", w.features, w.sae, **options)


def test_examples_agree_with_a_slow_reading(w, dense):
    neighbours = nearest_features(w.sae)
    sequence = w.features.sequence
    for feature in range(w.features.width):
        card = card_of(w.features, feature, neighbours[feature])
        values = dense[:, feature]
        strongest = {s: values[sequence == s].max() for s in range(GAMES) if values[sequence == s].max() > 0}
        expected = sorted(strongest.values(), reverse=True)[:TOP]
        assert [example.value for example in card.top] == pytest.approx(expected)
        assert all(values[example.row] == np.float32(example.value) for example in (*card.top, *card.middle))
        seen = [int(sequence[example.row]) for example in (*card.top, *card.middle)]
        assert len(set(seen)) == len(seen), "one a sequence"
        assert len(card.middle) == min(MIDDLE, len(strongest) - len(card.top))
        if len(card.middle) and len(strongest) > TOP + MIDDLE:
            fired = np.sort(values[values > 0])
            assert abs(np.searchsorted(fired, card.middle[0].value) - len(fired) / 2) < 0.25 * len(fired)
        assert card.histogram.sum() == (values > 0).sum()
        assert len(card.histogram) == BINS
        assert np.array_equal(card.fires(0.5), np.flatnonzero(values >= 0.5))
        assert np.array_equal(card.at(slice(7, 45)), values[7:45])


def test_hard_negatives_are_silent_where_a_neighbour_fires(w, dense):
    neighbours = nearest_features(w.sae)
    seen = 0
    for feature in range(w.features.width):
        card = card_of(w.features, feature, neighbours[feature])
        used = [w.features.sequence[example.row] for example in card.hard]
        assert len(set(used)) == len(used) <= HARD
        for example in card.hard:
            assert dense[example.row, feature] == 0
            assert example.other in neighbours[feature]
            assert dense[example.row, example.other] == np.float32(example.other_value) > 0
        if card.hard:
            first = card.hard[0]
            silent = dense[:, feature] == 0
            assert first.other_value == pytest.approx(dense[silent, first.other].max())
            seen += 1
    assert seen > 10


def test_boards_are_those_of_the_rows_and_the_last_move_is_the_token(w, dense):
    boards = Boards(w.tile, w.features)
    assert boards.square_of_token == {square + 1: square for square in range(SQUARES)}
    for row in (0, 5, 100, len(w.features) - 1):
        assert np.array_equal(boards.of(np.array([row]))[0], w.tile.values[row])
        assert boards.last_move(row) == w.features.token[row] - 1
    rows = np.flatnonzero(dense[:, 3] > 0)
    shares = np.array([[(w.tile.values[rows, s] == k).mean() for s in range(SQUARES)] for k in range(3)])
    usual = np.array([[(w.tile.values[:, s] == k).mean() for s in range(SQUARES)] for k in range(3)])
    np.testing.assert_allclose(boards.average(rows), shares - usual, atol=1e-12)
    values = np.arange(64.0)
    np.testing.assert_allclose(boards.of_tokens(values), np.arange(1, 17) - np.mean(np.arange(1, 17)))
    assert boards.named("B2 is mine and C3 is empty") == [5, 10]


def test_squares_without_a_label_are_not_known(w):
    some = LabelSet("tile", w.tile.values[:, 4:], "multiclass", "token", w.tile.classes, w.tile.targets[4:])
    boards = Boards(some, w.features)
    assert (boards.of(np.arange(20))[:, :4] == -1).all()
    assert set(boards.square_of_token.values()) == set(range(4, 16))
    assert np.isnan(boards.average(np.arange(9))[:, :4]).all()


def test_labels_that_are_no_board_are_refused(w):
    values = w.tile.values
    with pytest.raises(ValueError, match="no squares"):
        Boards(LabelSet("x", values, "multiclass", "token", w.tile.classes), w.features)
    with pytest.raises(ValueError, match="one a sequence"):
        Boards(replace(w.tile, level="sequence"), w.features)
    with pytest.raises(ValueError, match="of other data"):
        Boards(replace(w.tile, values=values[:50]), w.features)


def test_the_page_holds_the_cards(w, tmp_path, dense):
    data = written(page(w, tmp_path, names=w.names, decode=w.decode, boards=w.tile, model=w.model, most=20))
    fired = (dense > 0).sum(0)
    assert data["fired"] == fired.tolist()
    named = [name.feature for name in w.names]
    others = [f for f in np.argsort(-fired, kind="stable") if f not in named][:20]
    assert [card["feature"] for card in data["cards"]] == sorted([*named, *others])
    boards = Boards(w.tile, w.features)
    cosine = unit(w.sae.W_dec.detach().numpy()) @ unit(w.sae.W_dec.detach().numpy()).T
    for card in data["cards"]:
        f = card["feature"]
        assert card["most"] == pytest.approx(dense[:, f].max(), rel=0.01)
        assert card["median"] == pytest.approx(np.median(dense[dense[:, f] > 0, f]), rel=0.01)
        for sequence, position, value, tokens, at, shades, board, move, _, _ in card["examples"][0]:
            row = sequence * SQUARES + position
            assert value == pytest.approx(dense[row, f], rel=0.01)
            assert data["pieces"][tokens[at]] == w.decode([w.features.token[row]])[0]
            assert [ord(k) - 48 for k in board] == w.tile.values[row].tolist()
            assert move == w.features.token[row] - 1
            assert len(tokens) == min(SQUARES, position + 9) + (position + 9 < SQUARES), "a cut text ends in …"
            assert (data["pieces"][tokens[-1]] == "…") == (position + 9 < SQUARES)
            for i, strength in zip(shades[::2], shades[1::2], strict=True):
                assert strength == pytest.approx(dense[row - at + i, f], rel=0.01)
            assert len(shades) // 2 == (dense[sequence * SQUARES : min(row + 9, (sequence + 1) * SQUARES), f] > 0).sum()
        name = next((name for name in w.names if name.feature == f), None)
        expected = boards.average(np.flatnonzero(dense[:, f] >= (name.evidence.threshold if name else 1e-9)))
        np.testing.assert_allclose(np.array(card["average"]), 100 * expected, atol=0.51)
        assert [c for _, c in card["near"]] == pytest.approx(np.sort(np.delete(cosine[f], f))[::-1][:5], abs=0.006)
        assert ("name" in card) == (name is not None)
    first = next(card for card in data["cards"] if card["feature"] == named[0])["name"]
    assert dict(zip(data["evidence"], first["evidence"], strict=True))["rows"] == 1234
    assert first["check"]["holds"] is True
    assert first["squares"] == [5, 10]


def test_logit_effects_are_those_of_a_unit_of_activation(w, tmp_path):
    data = written(page(w, tmp_path, model=w.model))
    for card in data["cards"][:6]:
        one = torch.zeros(2, w.features.width)
        one[0, card["feature"]] = 1
        with torch.no_grad():
            step = torch.diff(w.sae.decode(one), dim=0)[0] * -1
        pushed = logit_effects(w.model, step[None])[0].numpy()
        pushed -= pushed.mean()
        order = np.argsort(-pushed)
        assert [data["pieces"][i] for i, _ in card["up"]] == [f"token {i}" for i in order[:10]]
        assert [value for _, value in card["down"]] == pytest.approx(np.sort(pushed)[:10], rel=0.01)


def test_the_nearest_probe(w, tmp_path):
    decoder = unit(w.sae.W_dec.detach().numpy())
    rows = w.store.read(SITE)
    rng = np.random.default_rng(1)
    probes = {"feature 5": -3 * decoder[5], "nothing": rng.normal(size=32), HOSTILE: rng.normal(size=32)}
    near = nearest_probes(probes, decoder, rows)
    assert near.names[near.nearest[5]] == "feature 5"
    assert near.cosine[5] == pytest.approx(-1)
    slow = overlap(np.stack(list(probes.values())), w.sae, rows)
    assert near.p[5] == slow.p[0]
    assert near.chance == pytest.approx(slow.chance)
    data = written(page(w, tmp_path, probes=probes, activations=w.store))
    assert data["probes"]["names"] == list(probes)
    card = next(card for card in data["cards"] if card["feature"] == 5)
    assert card["probe"][:2] == [0, -1]
    for wrong, said in ((np.zeros(32), "no direction"), (np.ones(31), "reads 32 dimensions")):
        with pytest.raises(ValueError, match=said):
            nearest_probes({"x": wrong}, decoder, rows)


def test_the_nearest_of_many_random_probes_is_beyond_chance_as_often_as_p_says():
    shares = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        decoder, rows = unit(rng.normal(size=(40, 16))), rng.normal(size=(500, 16))
        probes = {str(i): rng.normal(size=16) for i in range(100)}
        shares.append((nearest_probes(probes, decoder, rows).p <= 0.05).mean())
    assert np.mean(shares) < 0.1, "0.05 promised"
    found = nearest_probes({**probes, "planted": decoder[7]}, decoder, rows)
    assert found.p[7] < 0.01
    assert np.isnan(nearest_probes(probes, decoder, np.ones((500, 16))).p).all()
    for place in (decoder, rows):
        place[3, 0] = np.nan
        with pytest.raises(ValueError, match="3 is NaN or infinite"):
            nearest_probes(probes, decoder, rows)
        place[3, 0] = 0


def test_probes_of_two_label_sets_with_the_same_squares_are_told_apart(w):
    import probekit as pk

    mine = w.tile.values == 1
    sets = {
        name: LabelSet(name, (mine ^ turned).astype(int), "binary", "token", ("no", "yes and no"), w.tile.targets)
        for name, turned in (("before", False), ("after", True))
    }
    result = pk.sweep(w.store, labels=sets, controls=False, n_boot=100, progress=False, probe="ridge")
    found = directions_of(result, SITE)
    assert len(found) == 2 * SQUARES
    one, other = (found[f"{name}: B2 is yes and no"].vector for name in ("before", "after"))
    assert float(one @ other) == pytest.approx(-1, abs=1e-3)


def test_probes_of_a_sweep(w, tmp_path):
    import probekit as pk

    games = pk.Dataset(
        "games",
        tokens=tuple(w.features.token.reshape(GAMES, SQUARES)),
        labels={"tile": w.tile},
        groups=np.arange(GAMES),
    )
    result = pk.sweep(w.store, games, labels=["tile"], controls=False, n_boot=100, progress=False)
    found = directions_of(result, SITE)
    assert "B2 is mine" in found
    np.testing.assert_allclose(found["B2 is mine"].vector, result.probes["tile"][SITE].direction("B2", "mine").vector)
    page(w, tmp_path, probes=result, activations=w.store)
    with pytest.raises(ValueError, match="no probe at elsewhere"):
        directions_of(result, "elsewhere")


def test_what_was_left_out_is_said(w, tmp_path):
    text = page(w, tmp_path, names=w.names, most=4).read_text()
    assert "7 features have cards: 3 with a name and, of those without, the 4 that fire at the most rows." in text
    assert "41 features have none" in text
    assert w.features.manifest.sae in text
    assert "http://" not in re.sub(r"http://www\.w3\.org/2000/svg", "", text)


def test_dataset_text_never_ends_the_script(w, tmp_path):
    text = page(w, tmp_path, names=w.names, decode=w.decode, title=HOSTILE).read_text()
    assert "<img" not in text
    assert text.count("</script>") == text.count("<script")


def test_the_same_gives_the_same_page(w, tmp_path):
    one = page(w, tmp_path, names=w.names, boards=w.tile).read_text()
    assert page(w, tmp_path, names=w.names, boards=w.tile).read_text() == one


def test_what_does_not_belong_together_is_refused(w, tmp_path):
    other = saes.train(w.store, site=SITE, width=48, k=4, rows=640, batch=64, progress=False)
    with pytest.raises(ValueError, match="fingerprint"):
        saes.save_page(tmp_path / "x.html", w.features, other)
    with pytest.raises(ValueError, match="the names are of 49"):
        page(w, tmp_path, names=replace(w.names, width=49))
    with pytest.raises(ValueError, match="give activations="):
        page(w, tmp_path, probes={"x": np.ones(32)})
    from probekit.models import load_model
    from tests.models.tiny import make_model

    with pytest.raises(ValueError, match="was trained on"):
        page(w, tmp_path, model=load_model(make_model("llama", seed=1)))
    assert not list(tmp_path.iterdir())
