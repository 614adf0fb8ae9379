"""The experiment on a tiny training run from its folder to the page, and each of its measures on planted truth."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import probekit as pk
from probekit.activations import ArrayActivations
from probekit.testbeds import karel
from probekit.testbeds.karel import train
from probekit.testbeds.karel.export import export
from probekit.testbeds.karel.language import MOVE, TURN_LEFT, TURN_RIGHT
from probekit.testbeds.karel.tokens import FIRST_WORD
from tests.experiments.scripts import scripts_of

MODULES = ("series", "meanings", "controls", "pushes", "effects", "written", "features", "figures", "page", "run")


@pytest.fixture(scope="module")
def script():
    with scripts_of("program_semantics", *MODULES) as found:
        yield found


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "is_kept", lambda step: step == 2)
        patch.setattr(train, "_PROBLEMS_A_DRAW", 16)
        check = train.check_on_fresh_problems
        patch.setattr(train, "check_on_fresh_problems", lambda recipe: check(recipe, problems=4))
        recipe = train.Recipe(layers=1, width=16, heads=2, batch=4, precision="float32")
        train.run(recipe, folder, stop_at=3, cooldown=2, log_every=10, evaluate_every=1000)
    return folder


@pytest.fixture(scope="module")
def captured() -> SimpleNamespace:
    return captured_programs(300)


def captured_programs(n: int) -> SimpleNamespace:
    """Some programs, and what a model without training makes of them."""
    hf = train.new_model(train.Recipe(layers=1, width=16, heads=2)).eval()
    problems = karel.sample_problems(n, seed=2)
    data = karel.problems_dataset(problems)
    store = pk.capture(pk.load_model(hf), data, rows=karel.program_rows(data), progress=False)
    return SimpleNamespace(hf=hf, problems=problems, data=data, store=store)


def test_from_a_training_run_to_the_page(script, trained, tmp_path, monkeypatch) -> None:
    sizes = script.run.Sizes(
        generated=4, generated_last=6, probed=120, labels=("turned", "turned+1"), labels_last=("turned", "gone", "to_go"), permuted=("turned",),
        sae_labels=("turned", "gone"), pushed=160, random=2, sae_programs=40, sae_width=32, sae_k=4, sae_rows=2000, draws=100,
    )  # fmt: skip
    monkeypatch.setattr(script.written, "LOSS_PROBLEMS", 8)
    tables = script.run.run(trained, tmp_path, sizes)
    assert tables["written"].step.tolist() == [2, 5]
    assert (tables["written"].rate == 0).all()
    assert tables["written"].loss.between(1, 10).all()
    probed = tables["probed"]
    assert set(probed.step) == {2, 5}
    assert set(probed.label_set) == {"turned", "turned+1"}
    assert {"model", "surface", "random_weights", "control_task", "baseline"} <= set(tables["probes"].source)
    assert tables["relations"].empty  # two points
    assert tables["meanings"].meaning.tolist() == ["move and turn_left swapped", "move as turn_left as turn_right"]
    assert {f"{name}: excess" for name in script.meanings.BASELINES} <= set(tables["meanings"])
    assert tables["pushes"].measure.tolist() == list(script.effects.MEASURES) * len(script.effects.PUSHED)
    assert set(tables["features"].label_set) == {"turned", "gone"}
    assert (
        tables["features"][["f1", "probe_f1", "random_weights_f1", "probe_random_weights_f1"]].notna().to_numpy().all()
    )
    html = (tmp_path / "report.html").read_text()
    assert html.count('class="scripted"') == script.page.WALKS
    for name in ("programs_of", "sweep_meanings"):  # what was measured is read back
        monkeypatch.setattr(script.run, name, None)
    monkeypatch.setattr(script.effects, "experiment", None)
    monkeypatch.setattr(script.features, "experiment", None)
    again = script.run.run(trained, tmp_path, sizes)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again[name], table)
    with pytest.raises(ValueError, match="tables of other weights or sizes"):
        script.run.run(trained, tmp_path, replace(sizes, probed=61))


def test_a_copy_kept_at_the_last_step_is_not_measured_twice(script, trained, monkeypatch) -> None:
    assert [step for step, _ in script.run.models_of(trained)] == [2, 5]
    monkeypatch.setattr(script.run, "kept_models", lambda run: iter([(2, "early"), (5, "kept")]))
    assert [step for step, _ in script.run.models_of(trained)] == [2, 5]


def test_an_exported_model_is_enough_for_all_but_the_course_of_training(script, trained, tmp_path, monkeypatch) -> None:
    export(trained, tmp_path / "exported", problems=4)
    sizes = script.run.Sizes(
        generated=4, generated_last=6, probed=120, labels=("turned",), labels_last=("turned", "to_go"), permuted=("turned",),
        sae_labels=("turned",), pushed=160, random=2, sae_programs=40, sae_width=32, sae_k=4, sae_rows=2000, draws=100,
    )  # fmt: skip
    monkeypatch.setattr(script.written, "LOSS_PROBLEMS", 8)
    tables = script.run.run(tmp_path / "exported", tmp_path / "out", sizes)
    assert tables["written"].step.tolist() == [5]
    assert tables["relations"].empty
    assert {"model", "surface", "random_weights", "control_task", "baseline"} <= set(tables["probes"].source)
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Over training" not in html
    assert "writes a right program for 0.0%" in html


def test_the_command_says_what_is_missing(script, tmp_path, monkeypatch) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["run.py", "--model", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        script.run.main()


def test_correlations_are_those_of_numpy_and_of_residuals(script) -> None:
    rng = np.random.default_rng(0)
    x, y, a, b = rng.normal(size=(4, 15))
    x, y = x + a - b, y + 2 * a + b
    assert script.series.relation(x, y).value == pytest.approx(np.corrcoef(x, y)[0, 1])
    design = np.stack([np.ones(15), a, b], 1)
    left = [one - design @ np.linalg.lstsq(design, one, rcond=None)[0] for one in (x, y)]
    both = script.series.relation(x, y, {"a": a, "b": b})
    assert both.value == pytest.approx(np.corrcoef(left)[0, 1])
    assert both.given == "a and b"
    assert both.low < both.value < both.high
    assert "15 points only" in str(both)
    assert script.series.relation(x, y, {"a": a, "twice": 2 * a}).value == pytest.approx(
        script.series.relation(x, y, {"a": a}).value
    )
    assert np.isnan(script.series.relation(x, np.ones(15)).value)
    assert np.isnan(script.series.relation(x, y, {"x": x}).value)
    few = script.series.relation(x[:5], y[:5])
    assert np.isnan(few.low)
    assert "no interval" in str(few)
    with pytest.raises(ValueError, match="one shape"):
        script.series.relation(x, y[:-1])


def test_blocks_are_of_neighbours_and_go_round(script) -> None:
    taken = script.series.circular_blocks(14, script.series.block_length(14), 500, 0)
    assert script.series.block_length(14) == 3
    assert taken.shape == (500, 14)
    steps = (np.diff(taken.reshape(500, 14)[:, :3]) % 14 == 1).all()
    assert steps
    assert np.bincount(taken.ravel(), minlength=14).min() > 400


def test_the_interval_covers_about_as_often_as_the_docstring_says(script) -> None:
    said = {0.0: 0.97, 0.5: 0.96, 0.8: 0.91}
    for autocorrelation, wanted in said.items():
        found = script.series.coverage(14, autocorrelation, pairs=500, draws=200)
        assert found == pytest.approx(wanted, abs=0.04)


def test_what_only_rises_correlates_until_the_step_is_taken_out(script) -> None:
    step = np.log(100 * 1.5 ** np.arange(14))
    noise = np.random.default_rng(3).normal(size=(2, 14))
    x, y = step + 0.3 * noise
    assert script.series.relation(x, y).low > 0.5
    left = script.series.relation(x, y, {"the step": step})
    assert left.low < 0 < left.high


def test_meanings_are_permutations_that_keep_the_marker_actions(script) -> None:
    words = karel.read_program("move turn_left turn_right put_marker pick_marker")
    for meaning in script.meanings.MEANINGS.values():
        changed = karel.permute_actions(words, meaning)
        assert sorted(changed) == sorted(words)
        assert changed[3:].tolist() == words[3:].tolist()


def planted(captured: SimpleNamespace, rows: np.ndarray) -> ArrayActivations:
    store = captured.store
    return ArrayActivations(
        {"planted": rows}, sequence=store.sequence, position=store.position, token=store.token, prefix=store.prefix, item=store.item
    )  # fmt: skip


@pytest.fixture(scope="module")
def many() -> SimpleNamespace:
    """More programs, so that differences can be told; the rows are what a test plants."""
    return captured_programs(500)


def test_states_are_told_from_any_record_of_the_words(script, many, monkeypatch) -> None:
    m, rng = script.meanings, np.random.default_rng(0)
    monkeypatch.setattr(m, "_FUNCTIONS", 200)
    item = many.store.item
    states = [m.one_hot(many.data.label_set("turned").values[item, 0], 4)]
    states += [m.one_hot(column, 7) for column in many.data.label_set("gone").values[item].T]
    plain = np.concatenate(states, axis=1)
    record = m.baseline_rows(many.problems, many.data, many.store, seed=1).read(
        "record"
    )  # other random functions than the baseline's
    outcomes = {}
    for name, rows in (
        ("states", plain + 0.1 * rng.normal(size=plain.shape)),
        ("record", record),
        ("noise", rng.normal(size=plain.shape)),
    ):
        _, found, _ = m.sweep_meanings(
            planted(many, rows.astype(np.float32)), many.problems, "facts", ["turned", "gone"], n_boot=100
        )  # fmt: skip
        outcomes[name] = found
    assert len(outcomes["states"]) == 4
    assert set(outcomes["states"].outcome) == {m.READ}
    assert (outcomes["states"].true > 0.9).all()
    assert not (set(outcomes["record"].outcome) & {m.READ})
    assert outcomes["record"]["record: excess"].abs().max() < 0.12
    assert set(outcomes["noise"].outcome) <= {m.SAME, m.EASIER, m.OTHER}


def test_meanings_that_only_rename_classes_are_left_out(script, captured) -> None:
    m = script.meanings
    told = {name: m.told_under(captured.problems, "facts", meaning) for name, meaning in m.MEANINGS.items()}
    assert m.distinct(told, "turned") == [m.TRUE, "move and turn_left swapped", "move as turn_left as turn_right"]
    assert m.distinct(told, "gone") == [m.TRUE, "move and turn_left swapped", "move as turn_left as turn_right"]
    assert m.distinct(told, "facing") == list(m.MEANINGS)  # in the world the start tells left from right
    assert np.array_equal(told[m.TRUE].label_set("gone").values, captured.data.label_set("gone").values)


def test_the_record_holds_all_words_so_far(script, captured) -> None:
    found = script.meanings._history(captured.problems, captured.data)[captured.store.item]
    programs = captured.problems.programs
    rows = [programs[i, : k + 1] for i in range(len(programs)) for k in range((programs[i] >= 0).sum())]
    assert len(found) == len(rows)
    for row, words in zip(found[::37], rows[::37], strict=True):
        assert row.reshape(-1, 5).argmax(1)[: len(words)].tolist() == words.tolist()
        assert row.sum() == len(words)


def test_differences_are_in_pairs(script, captured) -> None:
    m, names = script.meanings, list(script.meanings.MEANINGS)
    one, same, other = (
        pk.sweep(captured.store, captured.data, labels=["facing"], controls=False, n_boot=n, progress=False)
        for n in (100, 100, 101)
    )
    found = m.differences({names[0]: one, names[1]: same}, {}, "facing")
    assert (found.difference[0], found.low[0], found.high[0]) == (0, 0, 0)
    with pytest.raises(ValueError, match="no pairs can be made"):
        m.differences({names[0]: one, names[1]: other}, {}, "facing")


@pytest.mark.parametrize(
    ("low", "high", "excess", "expected"),
    [(0.1, 0.2, (0.1, 0.1), "READ"), (0.1, 0.2, (0.1, -0.1), "EASIER"), (-0.1, 0.2, (0.1, 0.1), "SAME"), (-0.2, -0.1, (), "OTHER")],
)  # fmt: skip
def test_every_outcome_has_its_place_in_the_table(script, low, high, excess, expected) -> None:
    found = script.meanings.outcome(low, high, excess)
    assert found == getattr(script.meanings, expected)
    assert found in script.meanings.OUTCOMES


def test_the_control_task_is_a_label_for_every_three_words(script, captured) -> None:
    labels = script.controls.control_labels(captured.problems, captured.data)
    values = labels.values[karel.program_rows(captured.data), 0]
    by_words: dict[tuple[int, ...], set[int]] = {}
    programs = [row[row >= 0].tolist() for row in captured.problems.programs]
    words = [tuple(program[max(0, i - 2) : i + 1]) for program in programs for i in range(len(program))]
    for three, value in zip(words, values, strict=True):
        by_words.setdefault(three, set()).add(int(value))
    assert all(len(found) == 1 for found in by_words.values())
    assert len(by_words) > 100
    assert np.bincount(values).min() > 0.1 * len(values)
    assert (labels.values[~karel.program_rows(captured.data)] == -1).all()


def test_places_know_the_state_and_what_a_turn_makes_of_it(script) -> None:
    problems = karel.sample_problems(40, seed=6)
    places = script.pushes.places_in(problems, "facts", seed=0)
    tokens, _ = karel.encode(problems)
    for i in range(len(places)):
        prefix = places.tokens[i][-places.length[i] :]
        assert prefix.tolist() == tokens[i, : places.length[i]].tolist()
        start, end = problems.inputs.rows(np.array([5 * i])), problems.outputs.rows(np.array([5 * i]))
        world = karel.world_after(problems, i, int(places.length[i]) - 1)
        row, column = (int(a - b) for a, b in zip(divmod(end.cell[0], 8), divmod(world.cell[0], 8), strict=True))
        for turn in range(4):
            classes = script.pushes.turned(places.now, turn)[i]
            facing = (int(world.facing[0]) + turn) % 4
            ahead, right = (-row, column, row, -column)[facing], (column, row, -column, -row)[facing]
            steps = [max(-3, min(3, way)) + 3 for way in (ahead, right)]
            assert classes.tolist() == [(facing - start.facing[0]) % 4, (end.facing[0] - facing) % 4, *steps]
            if turn == 0:
                assert (places.ahead[i], places.side[i]) == (np.sign(ahead), np.sign(right))
    first, second = script.effects.halves(places, 0)
    assert len(first) + len(second) == 40
    assert not set(first.group) & set(second.group)


def test_the_cache_gives_what_the_whole_sequence_gives(script, captured) -> None:
    model, p = pk.load_model(captured.hf), script.pushes
    places = p.places_in(captured.problems.rows(slice(0, 7)), "facts", seed=0)
    generator = torch.Generator().manual_seed(0)
    ways = p.Ways(tuple(torch.randn(c, 16, generator=generator) for c in CLASSES), tuple(map(torch.zeros, CLASSES)))
    site = model.stream_sites[1]
    found = p.odds(model, places, {(site, 1.0, -1): ways})
    for i in range(len(places)):
        one = places.take(np.array([i]))
        ids = torch.from_numpy(one.tokens[:, -int(one.length[0]) :])
        for k, turn in enumerate(p.TURNS_PUSHED):
            with torch.no_grad(), p.pushed(ways, model, site, one, 1.0, turn).applied(model):
                after = model.hf(input_ids=ids).logits[:, -1].double()
            np.testing.assert_allclose(found[site, 1.0, -1][i, k], p.log_odds(after)[0], atol=1e-4)
        assert not np.allclose(found[site, 1.0, -1][i, 0], found[site, 1.0, -1][i, 1])


def test_a_push_mirrors_every_probe_and_random_ones_are_as_long(script) -> None:
    generator = torch.Generator().manual_seed(1)
    coef, intercept = (
        tuple(torch.randn(c, *size, generator=generator) for c in CLASSES) for size in ((40,), ())
    )  # fmt: skip
    ways = script.pushes.Ways(coef, intercept)
    h = torch.randn(30, 40, generator=generator)

    def scores(h: torch.Tensor) -> list[torch.Tensor]:
        return [h @ w.T + b for w, b in zip(coef, intercept, strict=True)]

    now = torch.stack([each.argmax(1) for each in scores(h)], 1)  # what the probes read
    then = torch.from_numpy(script.pushes.turned(now.numpy(), 1))

    def margins(h: torch.Tensor) -> torch.Tensor:
        row = torch.arange(30)
        each = [s[row, then[:, k]] - s[row, now[:, k]] for k, s in enumerate(scores(h))]
        return torch.stack(each, 1)

    for strength in (0.5, 1.0, 2.0):
        after = margins(ways.push(h, now, then, strength))
        torch.testing.assert_close(after, (1 - 2 * strength) * margins(h), atol=2e-2, rtol=2e-2)
    stray = script.pushes.random_ways(ways, np.random.default_rng(0).normal(size=(100, 40)), seed=0)
    assert stray.moved is not None
    moved, own = torch.cat(stray.moved), torch.cat(coef)
    torch.testing.assert_close(moved @ moved.T, own @ own.T, atol=1e-2, rtol=1e-3)  # the same lengths and angles
    step, other = (one.push(h, now, then, 1.0) - h for one in (ways, stray))
    torch.testing.assert_close(step.norm(dim=1), other.norm(dim=1), atol=1e-3, rtol=1e-3)
    alone = script.pushes.only(ways, 2, 3)
    moved = margins(alone.push(h, now, then, 1.0))
    torch.testing.assert_close(moved[:, 2:], -margins(h)[:, 2:], atol=2e-2, rtol=2e-2)
    at_the_end = torch.full_like(now, 3)  # where a turn changes nothing, nothing is pushed
    torch.testing.assert_close(alone.push(h, at_the_end, at_the_end, 1.0), h)
    assert torch.cosine_similarity(step, other).abs().mean() < 0.4


CLASSES = (4, 4, 7, 7)
"""Of the targets that are pushed."""


def handmade() -> tuple[pk.Model, list[torch.Tensor]]:
    """A model that holds nothing but the state, told by the last token, moves where the end lies ahead and turns to where it lies; and probes of it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    states, width = np.prod(CLASSES), sum(CLASSES)
    config = GPT2Config(vocab_size=20 + int(states), n_positions=16, n_embd=width, n_layer=1, n_head=2, tie_word_embeddings=False)  # fmt: skip
    hf = GPT2LMHeadModel(config).eval()
    probes = list(torch.eye(width).split(CLASSES))
    with torch.no_grad():
        for name, weights in hf.named_parameters():
            weights.fill_(1.0 if name.endswith("ln_f.weight") else 0.0)
        each = np.stack(np.unravel_index(np.arange(states), CLASSES), 1)
        hf.transformer.wte.weight[20:] = sum(probe[each[:, k]] for k, probe in enumerate(probes))
        hf.lm_head.weight[FIRST_WORD + MOVE] = probes[2][4:].sum(0)
        hf.lm_head.weight[FIRST_WORD + TURN_LEFT] = probes[3][:3].sum(0)
        hf.lm_head.weight[FIRST_WORD + TURN_RIGHT] = probes[3][4:].sum(0)
    return pk.load_model(hf), probes


def told(state: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.full(len(state), 5), np.full(len(state), 6), 20 + np.ravel_multi_index(tuple(state.T), CLASSES)], 1
    )


def states(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    now = np.stack([rng.integers(0, c, n) for c in CLASSES], 1)
    now[::2, 3] = 3  # straight ahead or behind
    return now


def test_a_model_that_acts_on_its_state_follows_the_push(script) -> None:
    model, probes = handmade()
    n = 400
    now = states(n)
    places = script.pushes.Places(told(now), np.full(n, 3), now, np.arange(n) // 2)
    ways = script.pushes.Ways(tuple(probes), tuple(map(torch.zeros, CLASSES)))
    site = "blocks.0.hook_resid_pre"
    found = script.pushes.odds(model, places, {(site, 1.0, -1): ways})[site, 1.0, -1]
    for k, turn in enumerate(script.pushes.TURNS_PUSHED):
        with torch.no_grad():
            logits = model.hf(torch.from_numpy(told(script.pushes.turned(now, turn)))).logits[:, -1].double()
        np.testing.assert_allclose(found[:, k], script.pushes.log_odds(logits), atol=1e-2)

    activations = SimpleNamespace(read=lambda _: np.random.default_rng(1).normal(size=(100, sum(CLASSES))))
    tried, report, chance = script.effects.experiment(
        model, activations, {site: ways}, places, strengths=(0.5, 1.0), random=30, draws=200
    )
    mine = report[report.pushed == "all of the state"].set_index("measure")
    assert (mine.strength == 1.0).all()
    assert (mine.low > 0).all()
    assert (mine.p == 1 / 31).all()
    alone = report[report.pushed.isin(["turned alone", "turn_to_go alone"])]
    assert alone.value.abs().max() < 1e-6  # it does not look at these
    enough = report[report.pushed == "to_go alone"].set_index("measure")
    assert (enough.value > 0.9 * mine.value).all()
    assert len(chance) == 4 * 2 * 30
    assert len(tried) == 4 * 2
    same = places.take(np.flatnonzero(places.side == 0))
    with pytest.raises(ValueError, match="push more programs"):
        script.effects.experiment(model, activations, {site: ways}, same, random=1)


def test_a_model_that_looks_at_something_else_does_not_follow(script) -> None:
    model, probes = handmade()
    with (
        torch.no_grad()
    ):  # it moves by how far it has turned, and turns by what it still has to turn, in no sensible way
        for action, row in ((MOVE, probes[0][1]), (TURN_LEFT, probes[1][0]), (TURN_RIGHT, probes[1][0] + probes[0][2])):
            model.hf.lm_head.weight[FIRST_WORD + action] = row
    n = 400
    now = states(n)
    places = script.pushes.Places(told(now), np.full(n, 3), now, np.arange(n) // 2)
    ways = script.pushes.Ways(tuple(probes), tuple(map(torch.zeros, CLASSES)))
    found = script.pushes.odds(model, places, {("blocks.0.hook_resid_pre", 1.0, -1): ways})
    counts = script.effects.group_counts(places.group, 500)
    for name, values in script.effects.each_place(next(iter(found.values())), places).items():
        there = ~np.isnan(values)
        low, high = np.quantile(counts[:, there] @ values[there] / counts[:, there].sum(1), (0.01, 0.99))
        assert low < 0 < high, name


def test_measures_are_of_the_places_they_speak_of(script) -> None:
    now = np.zeros((4, 4), np.int64)
    now[:, 2], now[:, 3] = [5, 3, 1, 3], [3, 5, 3, 1]  # the end lies ahead, to the right, behind, to the left
    places = script.pushes.Places(*np.zeros((2, 4)), now, np.arange(4))
    after = np.zeros((4, 2, 2))
    after[:, 0] = [[9, 2], [1, 9], [9, 5], [3, 9]]  # after a turn to the right
    after[:, 1] = [[9, 1], [4, 9], [9, 7], [8, 9]]
    found = script.effects.each_place(after, places)
    np.testing.assert_array_equal(found["following"], [np.nan, 1 - 4, np.nan, 8 - 3])
    np.testing.assert_array_equal(found["turning"], [2 - 1, np.nan, 7 - 5, np.nan])
    assert script.effects.measures(after, places) == {"following": 1.0, "turning": 1.5}
    counts = script.effects.group_counts(np.array(["a", "a", "b"]), 50)
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 1:].sum(1) == 2).all()


def test_what_is_read_in_the_robots_terms_is_drawn_where_the_robot_is(script) -> None:
    problems = karel.sample_problems(30, seed=3)
    inputs, outputs = problems.example(0)
    data = karel.problems_dataset(problems)
    ends = np.cumsum([len(t) for t in data.tokens or ()]) - 2  # the last word
    near = 0
    for i, end in enumerate(ends):
        ahead, right = np.eye(7)[data.label_set("gone").values[end]]
        drawn = script.page.on_the_grid(ahead, right, int(inputs.cell[i]), int(inputs.facing[i]))
        far = set(data.label_set("gone").values[end].tolist()) & {0, 6}
        near += not far
        assert far or drawn.argmax() == outputs.cell[i]
        assert drawn.sum() == 1
    assert near > 15


def test_tidied_programs_do_the_same(script) -> None:
    problems = karel.sample_problems(300, seed=0)
    rows = [script.written.tidied(row[row >= 0]) for row in problems.programs]
    lengths = np.array([len(row) for row in rows])
    assert (lengths <= (problems.programs >= 0).sum(1)).all()
    assert lengths.mean() < (problems.programs >= 0).sum(1).mean() - 0.5
    assert (karel.behaviours(rows) == karel.behaviours(problems.programs)).all()
    example = karel.read_program("turn_left put_marker turn_left turn_right pick_marker turn_left turn_left move")
    assert karel.format_program(script.written.tidied(example)) == "turn_right move"


def test_shorter_programs_are_counted_among_the_right_ones(script) -> None:
    programs = pd.DataFrame(
        {"right": [True, True, True, False], "length": [4, 6, 7, 1], "reference": [6, 6, 6, 6], "tidied": [4, 6, 6, 6], "group": [0, 1, 2, 3]}
    )  # fmt: skip
    found = script.written.shorter(programs).set_index("than")
    assert found["share"].to_dict() == {"reference": pytest.approx(1 / 3), "tidied": 0}
    assert (found.low["reference"], found.high["reference"]) == (0, 1)
    assert found.right.tolist() == [3, 3]
    counts = script.written.lengths(programs)
    assert counts[counts.whose == "written"].programs.sum() == 3
    assert script.written.shorter(programs[~programs.right]).empty


def test_the_loss_is_that_of_one_batch(script, captured, monkeypatch) -> None:
    tokens, _ = karel.encode(karel.sample_problems(30, seed=3, part="valid"))
    with torch.no_grad():
        whole = float(train.losses(captured.hf, train.to_batch(tokens))[0])
    monkeypatch.setattr(script.written, "BATCH", 7)
    assert script.written.loss_of(captured.hf, "facts", 30) == pytest.approx(whole, rel=1e-5)
