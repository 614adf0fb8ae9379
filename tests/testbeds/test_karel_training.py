"""The recipe of karel-mini: it resumes, its loss is what it says, its problems are of the training part, and it learns."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from probekit.testbeds import karel
from probekit.testbeds.karel import train as recipe_module
from probekit.testbeds.karel.export import export, kept_models
from probekit.testbeds.karel.tokens import FIRST_WORD, STOP
from probekit.testbeds.karel.train import Recipe, is_kept, new_model, next_token_loss, run, to_batch, training_batches
from probekit.testbeds.training.loop import load_checkpoint

TINY = Recipe(layers=1, width=16, heads=2, batch=4, precision="float32")
QUIET = {"log_every": 5, "evaluate_every": 1000, "save_every": 5}


@pytest.fixture(autouse=True)
def small_and_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    check = recipe_module.check_on_fresh_problems
    monkeypatch.setattr(recipe_module, "check_on_fresh_problems", lambda recipe: check(recipe, problems=4))
    monkeypatch.setattr(recipe_module, "_PROBLEMS_A_DRAW", 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Killed(Exception):
    pass


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_module, "is_kept", lambda step: step in (4, 12))
    whole = run(TINY, tmp_path / "whole", stop_at=20, cooldown=10, warmup=4, **QUIET)

    def killing_batches(last: int):  # type: ignore[no-untyped-def]
        def batches(recipe: Recipe, part: int = 0, parts: int = 1):  # type: ignore[no-untyped-def]
            batch_at = training_batches(recipe, part, parts)

            def at(step: int):  # type: ignore[no-untyped-def]
                if step == last:
                    raise Killed
                return batch_at(step)

            return at

        return batches

    for last in (13, 27):
        monkeypatch.setattr(recipe_module, "training_batches", killing_batches(last))
        with pytest.raises(Killed):
            run(TINY, tmp_path / "parts", stop_at=20, cooldown=10, warmup=4, **QUIET)
    monkeypatch.setattr(recipe_module, "training_batches", training_batches)
    resumed = run(TINY, tmp_path / "parts", stop_at=20, cooldown=10, warmup=4, **QUIET)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for file in (
        "constant.safetensors",
        "cooldown-from-20.safetensors",
        "kept/step-000004.safetensors",
        "kept/step-000012.safetensors",
    ):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    entries = [json.loads(line) for line in (tmp_path / "whole" / "train_log.jsonl").read_text().splitlines()]
    assert {"right", "unseen", "right_train", "program_loss", "output_loss"} <= entries[-1].keys()
    with pytest.raises(ValueError, match="another recipe"):
        run(replace(TINY, seed=1), tmp_path / "whole", stop_at=2, **QUIET)


def test_copies_are_kept_at_steps_that_thin_out(tmp_path: Path) -> None:
    assert [step for step in range(1, 7000) if is_kept(step)] == [
        100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400, 3200, 4800, 6400,
    ]  # fmt: skip
    model = run(TINY, tmp_path, stop_at=100, **QUIET)
    ((step, kept),) = kept_models(tmp_path)
    assert step == 100
    for name, value in model.state_dict().items():
        torch.testing.assert_close(kept.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    other = new_model(TINY)
    assert load_checkpoint(tmp_path / "kept" / "step-000100.safetensors", other, []) == 100


def test_export_writes_what_a_user_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    with pytest.raises(FileNotFoundError, match="no cool-down"):
        export(tmp_path, tmp_path / "shipped")
    model = run(TINY, tmp_path / "run", stop_at=3, cooldown=2, **QUIET)
    figures = export(tmp_path / "run", tmp_path / "shipped", problems=20)
    assert (figures["steps"], figures["training_problems"]) == (5, 20)
    assert figures["rate"] == 0.0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "shipped", dtype=torch.float32)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-2, atol=1e-4)
    assert json.loads((tmp_path / "shipped" / "figures.json").read_text()) == figures


def test_the_loss_is_that_of_programs_and_outputs() -> None:
    model = new_model(TINY)
    problems = karel.sample_problems(3, seed=1)
    tokens, lengths = karel.encode(problems)
    recipe = replace(TINY, outputs=0.5)
    with torch.no_grad():
        loss = next_token_loss(recipe)(model, to_batch(tokens))
        program, output = [], []
        for row, length in zip(tokens, lengths, strict=True):
            ids = torch.from_numpy(row[:length]).long()
            said = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            for position in range(length - 1):
                following = int(ids[position + 1])
                if following >= STOP:
                    output.append(-said[position, following])
                elif FIRST_WORD <= following < FIRST_WORD + len(karel.WORDS) or following == karel.END:
                    program.append(-said[position, following])
    torch.testing.assert_close(loss, torch.stack(program).mean() + 0.5 * torch.stack(output).mean())
    assert len(program) == (problems.programs >= 0).sum() + 3


def test_training_problems_are_of_the_training_part_and_new_at_every_step() -> None:
    batch_at = training_batches(replace(TINY, batch=32))
    seen = []
    for step in range(6):
        for row in batch_at(step).tokens.numpy():
            words, inputs, outputs = karel.decode(row)
            assert karel.parts_of(karel.behaviours(words[None]))[0] == 0
            assert np.array_equal(karel.run(words[None], inputs).outputs.markers, outputs.markers)
            seen.append(row[row > 0].tobytes())
    assert len(set(seen)) == len(seen)
    again = training_batches(replace(TINY, batch=32))
    assert torch.equal(again(4).tokens, batch_at(4).tokens)
    other = training_batches(replace(TINY, batch=32, seed=1))(4).tokens
    assert other.shape != batch_at(4).tokens.shape or not torch.equal(other, batch_at(4).tokens)


def test_parts_of_a_batch_make_the_batch() -> None:
    whole, first, second = (training_batches(TINY, *which)(3).tokens for which in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(whole[0::2], first)
    assert torch.equal(whole[1::2], second)


def test_it_learns_which_words_are_frequent_and_where_programs_end(tmp_path: Path) -> None:
    recipe = replace(TINY, width=32, batch=16)
    before = float(
        next_token_loss(replace(recipe, outputs=0.0))(
            new_model(recipe), training_batches(replace(recipe, seed=9))(0)
        ).detach()
    )
    model = run(recipe, tmp_path, stop_at=120, warmup=10, **QUIET)
    after = float(
        next_token_loss(replace(recipe, outputs=0.0))(model, training_batches(replace(recipe, seed=9))(0)).detach()
    )
    assert before > 6.5  # log 1111 = 7.01 before training
    assert after < 1.9


def test_other_shapes_and_encodings() -> None:
    grid = replace(TINY, encoding="grid")
    loss = next_token_loss(grid)(new_model(grid), training_batches(grid)(0))
    assert torch.isfinite(loss)
    model = new_model(grid)
    assert karel.synthesise(model, karel.sample_problems(2, seed=0), encoding="grid").rate == 0.0
    with pytest.raises(ValueError, match="the model has 87 tokens"):
        karel.generate(model, karel.sample_problems(2, seed=0))


def test_generation_takes_the_likeliest_token_whatever_the_padding() -> None:
    model = new_model(replace(TINY, layers=2)).eval()
    with torch.no_grad():  # sharper, so that ties do not decide
        model.lm_head.weight.mul_(20)
        model.lm_head.weight[: karel.END + 1] = 0
    problems = karel.sample_problems(12, seed=2)
    tokens, _ = karel.encode(problems)
    written = karel.generate(model, problems, batch=5)
    for row, new in zip(tokens, written, strict=True):
        ids = row[: int((row == karel.PROGRAM).argmax()) + 1].tolist()
        start = len(ids)
        while len(ids) < start + written.shape[1] and (len(ids) == start or ids[-1] != karel.END):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert new[: len(ids) - start].tolist() == ids[start:]


def test_programs_are_judged_by_what_they_do() -> None:
    problems = karel.sample_problems(60, seed=4, unseen=3)
    n = len(problems)

    def written(programs: list[np.ndarray]) -> np.ndarray:
        table = np.full((n, 24), karel.PAD)
        for row, words in zip(table, programs, strict=True):
            row[: len(words)] = words + FIRST_WORD
            row[len(words)] = karel.END
        return table

    references = [row[row >= 0] for row in problems.programs]
    found = karel.judge(written(references), problems)
    assert found.right.all()
    assert found.generalises.all()
    assert (found.rate, found.unseen, found.shorter) == (1.0, 1.0, 0.0)
    around = np.array([2, 2, 2, 2])
    longer = karel.judge(written([np.concatenate([around, words]) for words in references]), problems)
    assert longer.right.all()
    assert (longer.length == longer.reference_length + 4).all()
    turned = karel.judge(written([np.append(words, 1) for words in references]), problems)
    assert not turned.right.any()
    shorter = karel.judge(written([words[2:] if i % 2 else words for i, words in enumerate(references)]), problems)
    assert shorter.right[::2].all()
    assert shorter.rate < 0.7
    broken = written(references)
    broken[0][broken[0] == karel.END] = karel.PAD  # does not end
    broken[1, 0] = STOP  # no word
    broken[2, 0] = karel.END  # empty
    broken[3, 0] = FIRST_WORD + karel.WORDS.index("else")  # does not parse
    judged = karel.judge(broken, problems)
    assert not judged.parsed[:4].any()
    assert not judged.right[:4].any()
    assert judged.right[4:].all()
    assert judged.low <= judged.rate <= judged.high
    nothing_unseen = karel.judge(written(references), karel.sample_problems(60, seed=4))
    assert np.isnan(nothing_unseen.unseen)


def test_problems_that_ask_for_the_same_count_as_one_for_the_interval() -> None:
    few, one = karel.sample_problems(8, seed=4), karel.sample_problems(1, seed=4)
    tokens = np.full((8, 24), karel.PAD)
    for i, row in enumerate(few.programs):
        tokens[i, : (row >= 0).sum()] = row[row >= 0] + FIRST_WORD
        tokens[i, (row >= 0).sum()] = karel.END
    tokens[::2] = karel.END  # half are wrong
    different = karel.judge(tokens, few)
    assert different.high - different.low > 0.3
    same = karel.judge(tokens[[0, 1] * 20], one.rows(np.zeros(40, int)))
    assert (same.low, same.high) == (same.rate, same.rate)


def test_a_program_that_fits_only_the_examples_shown_does_not_generalise() -> None:
    program = karel.read_program("move move")[None]
    free = karel.make_world((3, 3), "north")
    inputs = karel.Worlds(*(np.repeat(getattr(free, f), 2, axis=0) for f in ("cell", "facing", "walls", "markers")))
    inputs.walls[1, 8 * 3 + 4] = True  # unseen: another way is blocked
    problems = karel.make_problems(program, inputs, shown=1)
    way = karel.read_program("turn_right move turn_left move move turn_left move turn_right")
    tokens = np.full((1, 12), karel.PAD)
    tokens[0, : len(way)], tokens[0, len(way)] = way + FIRST_WORD, karel.END
    found = karel.judge(tokens, problems)
    assert found.right.tolist() == [True]
    assert found.generalises.tolist() == [False]


def test_a_sweep_reads_the_labels_from_the_programs_words() -> None:
    import probekit as pk

    data = karel.sample_programs(60, seed=0)
    model = pk.load_model(new_model(TINY))
    rows = karel.program_rows(data)
    store = pk.capture(model, data, rows=rows, progress=False)
    assert len(store) == rows.sum()
    result = pk.sweep(store, data, labels=["facing", "marker_below+1"], n_boot=100, progress=False)
    frame = result.to_frame()
    assert set(frame.label_set) == {"facing", "marker_below+1"}
    assert {"model", "surface", "majority", "shuffled"} <= set(frame.source)
