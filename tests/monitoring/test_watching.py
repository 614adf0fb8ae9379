"""What is generated is watched where it is generated: alarms stand where scoring the text afterwards puts them."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from probekit.monitoring import Cost, fit
from tests.monitoring.worlds import probe_of, texts_of, tiny

PROMPTS = ["the cat runs in", "paris is a city of france and", "two", "red dog"]
GREEDY = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0}


def left_padded(model, texts):
    ids = [model.tokenize([text])[0][0] for text in texts]
    longest = max(map(len, ids))
    tokens = torch.zeros((len(ids), longest), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, own in enumerate(ids):
        tokens[row, longest - len(own) :] = torch.from_numpy(own.astype(np.int64))
        mask[row, longest - len(own) :] = 1
    return {"input_ids": tokens, "attention_mask": mask}, [len(own) for own in ids]


def monitor_of(model, pool="last", **options):
    """Its threshold is low enough that it goes off now and then in what a random model says."""
    monitor = fit(probe_of(model, n=120), model, *texts_of(90, 3), pool=pool, false_alarms=0.1, **options)
    scored = monitor.score(model, texts_of(60, 9)[0])
    peaks = [max(t.so_far for t in each.tokens[1:]) for each in scored]
    return replace(monitor, running_threshold=float(np.quantile(peaks, 0.7)))


@pytest.fixture(scope="module")
def model():
    model = tiny()
    model.hf.generation_config.eos_token_id = None  # a random model would end at any moment
    return model


@pytest.fixture(scope="module")
def monitor(model):
    return monitor_of(model)


def first_alarms(monitor, model, sequences, lengths, new_tokens, patience=1):
    """By scoring the finished sequences: first generated position over the threshold, the last token left out, which is never read."""
    from probekit.monitoring.running import Alarms, Running

    found = {}
    for row, (whole, start) in enumerate(zip(sequences, lengths, strict=True)):
        ids = whole[len(whole) - new_tokens - start :]
        scored = monitor.score(model, [ids.numpy()])[0]
        counted = np.array([[position > 0 for position in range(len(ids))]])
        running, alarms = Running(monitor.pool, 1, monitor.warm_up), Alarms(monitor.running_threshold, 1, patience)
        so_far, ready = running.add(np.array([[t.score for t in scored.tokens]]), counted)
        alarm = alarms.add(so_far, ready & (np.arange(len(ids)) >= start))[0][:-1]
        if patience == 1:
            assert [t.alarm for t in scored.tokens[start:-1]] == alarm[start:].tolist()
        if alarm.any():
            found[row] = int(alarm.argmax())
    return found


@pytest.mark.parametrize(
    ("family", "pool"), [("llama", "last"), ("llama", "mean"), ("gpt2", "max"), ("gemma2", "mean")]
)
def test_alarms_stand_where_scoring_puts_them(family, pool):
    model = tiny(family)
    model.hf.generation_config.eos_token_id = None
    batch, lengths = left_padded(model, PROMPTS)
    seen = 0
    for seed in range(2):
        monitor = monitor_of(model, pool, seed=seed)
        for sampling in ({"do_sample": False}, {"do_sample": True, "temperature": 3.0}):
            torch.manual_seed(seed)
            with monitor.watch(model) as watch:
                sequences = model.hf.generate(**batch, **GREEDY | sampling)
            wanted = first_alarms(monitor, model, sequences, lengths, 12)
            assert {event.sequence: event.position for event in watch.events} == wanted
            seen += len(wanted)
            for row, start in enumerate(lengths):
                ids = sequences[row, sequences.shape[1] - 12 - start :]
                offline = [t.score for t in monitor.score(model, [ids.numpy()])[0].tokens]
                np.testing.assert_allclose(watch.scores[row], offline[:-1], atol=1e-4)
            for event in watch.events:
                assert event.generated == event.position - lengths[event.sequence]
                assert event.token == sequences[event.sequence, batch["input_ids"].shape[1] + event.generated]
                assert event.so_far > monitor.running_threshold
                assert event.text == model.tokenizer.decode([event.token])
                assert not event.stopped
    assert seen


@pytest.mark.parametrize("how", [{"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 3}, {"num_return_sequences": 2}])  # fmt: skip
def test_every_way_to_generate_says_the_same(model, monitor, how):
    batch, _ = left_padded(model, PROMPTS)
    with monitor.watch(model) as plain:
        wanted = model.hf.generate(**batch, **GREEDY)
    if "num_return_sequences" in how:
        how = how | {"do_sample": True, "top_k": 1}
    with monitor.watch(model) as watch:
        found = model.hf.generate(**batch, **GREEDY | how)
    copies = len(found) // len(wanted)
    assert torch.equal(found, wanted.repeat_interleave(copies, 0))
    events = {(e.sequence // copies, e.position) for e in watch.events}
    assert events == {(e.sequence, e.position) for e in plain.events}
    assert len(watch.events) == copies * len(plain.events)
    np.testing.assert_allclose(watch.scores[0], plain.scores[0], atol=1e-4)


@pytest.mark.parametrize(
    ("family", "site"),
    [
        ("opt", "blocks.1.mlp.hook_post"),
        ("gpt2", "hook_pos_embed"),
        ("llama", "ln_final.hook_normalized"),
        ("llama", "blocks.1.hook_resid_mid"),
        ("llama", "blocks.1.attn.hook_z"),
        ("llama", "hook_embed"),
    ],
)
def test_every_kind_of_site_is_watched(family, site):
    model = tiny(family)
    model.hf.generation_config.eos_token_id = None
    monitor = fit(probe_of(model, site, n=60), model, *texts_of(60, 3), false_alarms=0.1)
    batch, lengths = left_padded(model, PROMPTS)
    with monitor.watch(model) as watch:
        sequences = model.hf.generate(**batch, **GREEDY)
    for row, start in enumerate(lengths):
        ids = sequences[row, sequences.shape[1] - 12 - start :].numpy()
        offline = monitor.score(model, [ids])[0].tokens
        np.testing.assert_allclose(watch.scores[row], [t.score for t in offline[:-1]], atol=1e-4)
        followed = monitor.follow(model).feed(ids)
        np.testing.assert_allclose([t.score for t in followed], [t.score for t in offline], atol=1e-4)


def test_padding_that_generate_finds_by_itself(model, monitor):
    batch, _ = left_padded(model, PROMPTS)
    with monitor.watch(model) as with_mask:
        model.hf.generate(**batch, **GREEDY)
    with monitor.watch(model) as without:
        model.hf.generate(batch["input_ids"], **GREEDY)
    assert without.events == with_mask.events


def test_only_the_sequence_that_rings_is_stopped(model, monitor):
    batch, lengths = left_padded(model, PROMPTS)
    width = batch["input_ids"].shape[1]
    rang = 0
    for seed in range(6):
        torch.manual_seed(seed)
        options = GREEDY | {"do_sample": True, "temperature": 3.0}
        plain = model.hf.generate(**batch, **options)
        torch.manual_seed(seed)
        with monitor.watch(model, stop=True) as watch:
            stopped = model.hf.generate(**batch, **options)
        ends = {
            event.sequence: width + event.generated + 2 for event in watch.events
        }  # the alarm, and the token after it
        rang += 0 < len(ends) < 4
        for row in range(4):
            end = ends.get(row, stopped.shape[1])
            assert torch.equal(stopped[row, :end], plain[row, : len(stopped[row, :end])])
            assert (stopped[row, end:] == 0).all()
            assert len(watch.scores[row]) <= lengths[row] + end - width
        if len(ends) == 4:
            assert stopped.shape[1] == max(ends.values())
        else:
            assert stopped.shape[1] == plain.shape[1]
        assert all(event.stopped for event in watch.events)
    assert rang >= 2


def test_sequences_that_ended_are_not_read_on(model, monitor):
    """A token that ends the first sequence early: what is filled in after it raises no alarm, and changes no score."""
    batch, lengths = left_padded(model, PROMPTS)
    width = batch["input_ids"].shape[1]
    plain = model.hf.generate(**batch, **GREEDY)
    end = int(plain[0, width + 3])
    always = replace(monitor, running_threshold=-1e9)
    for pad in (0, end):
        with always.watch(model) as watch:
            found = model.hf.generate(**batch, **GREEDY | {"eos_token_id": end, "pad_token_id": pad})
        for row in range(4):
            generated = found[row, width:].tolist()
            read = generated.index(end) if end in generated else len(generated) - 1
            assert len(watch.scores[row]) == lengths[row] + read
        assert {event.sequence for event in watch.events} == {r for r in range(4) if len(watch.scores[r]) > lengths[r]}


def test_patience_and_prompts(model):
    monitor = monitor_of(model, "max")
    batch, lengths = left_padded(model, PROMPTS)
    for patience in (2, 3):
        with monitor.watch(model, patience=patience) as watch:
            sequences = model.hf.generate(**batch, **GREEDY)
        assert {e.sequence: e.position for e in watch.events} == first_alarms(
            monitor, model, sequences, lengths, 12, patience
        )
    always = replace(monitor, running_threshold=-1e9)
    with always.watch(model) as watch:
        model.hf.generate(**batch, **GREEDY)
    assert [event.generated for event in watch.events] == [0] * 4  # never at the prompt
    with monitor.watch(model, prompt=False) as watch:
        sequences = model.hf.generate(**batch, **GREEDY)
    for row, start in enumerate(lengths):
        ids = sequences[row, sequences.shape[1] - 12 - start :]
        own = [t.score for t in monitor.score(model, [ids.numpy()])[0].tokens][start:-1]
        over = [i for i, score in enumerate(own) if score > monitor.running_threshold]
        found = [event.generated for event in watch.events if event.sequence == row]
        assert found == over[:1]


def test_a_criterion_of_ones_own_still_stops(model, monitor):
    from transformers import StoppingCriteria, StoppingCriteriaList

    class AtTen(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= 10)

    batch, _ = left_padded(model, PROMPTS)
    quiet = replace(monitor, running_threshold=1e9)
    with quiet.watch(model, stop=True) as watch:
        found = model.hf.generate(batch["input_ids"], attention_mask=batch["attention_mask"], stopping_criteria=StoppingCriteriaList([AtTen()]), **GREEDY)  # fmt: skip
    assert found.shape[1] == 10
    assert watch.events == []


def test_calls_are_numbered_and_nothing_stays_behind(model, monitor):
    always = replace(monitor, running_threshold=-1e9)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())
    ids = torch.tensor([[1, 7, 9]])
    watch = always.watch(model)
    with watch:
        model.hf.generate(ids, **GREEDY)
        monitor.score(model, ["the cat"])  # another call of the model than generate's
        model.hf(ids)
        model.hf.generate(ids, **GREEDY)
        with pytest.raises(RuntimeError, match="already on"), watch:
            pass
    assert [event.call for event in watch.events] == [0, 1]
    assert watch.calls == 2
    assert "generate" not in model.hf.__dict__
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()) == hooks
    model.hf.generate(ids, **GREEDY)
    assert watch.calls == 2


def test_watches_and_edits_may_be_on_together(model, monitor):
    from probekit.surgery import ablate

    ids = torch.tensor([[1, 7, 9, 20]])
    direction = probe_of(model, n=60).direction()
    edit = ablate(direction, model, where="generated")
    with edit.applied(model), monitor.watch(model) as watch:
        found = model.hf.generate(ids, **GREEDY)
    with monitor.watch(model) as other, edit.applied(model):
        assert torch.equal(model.hf.generate(ids, **GREEDY), found)
    assert len(other.scores[0]) == len(watch.scores[0]) == 4 + 11


def test_threads_generate_each_for_itself(model, monitor):
    batch, _ = left_padded(model, PROMPTS)
    with monitor.watch(model) as alone:
        for row in range(4):
            model.hf.generate(
                batch["input_ids"][row : row + 1], attention_mask=batch["attention_mask"][row : row + 1], **GREEDY
            )
    wanted = sorted((e.position, e.token) for e in alone.events)
    with monitor.watch(model) as watch:
        threads = [
            threading.Thread(
                target=model.hf.generate,
                args=(batch["input_ids"][row : row + 1],),
                kwargs={"attention_mask": batch["attention_mask"][row : row + 1], **GREEDY},
            )
            for row in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted((e.position, e.token) for e in watch.events) == wanted
    assert watch.calls == 4


def test_what_cannot_be_followed_is_refused(model, monitor):
    ids = torch.tensor([[1, 7, 9]])
    with monitor.watch(model):
        with pytest.raises(ValueError, match="beam search takes tokens back"):
            model.hf.generate(ids, num_beams=2, max_new_tokens=4)
        with pytest.raises(ValueError, match="prompt lookup"):
            model.hf.generate(ids, prompt_lookup_num_tokens=2, max_new_tokens=4)
        with pytest.raises(ValueError, match="token ids"):
            model.hf.generate(inputs_embeds=torch.zeros(1, 3, 32), max_new_tokens=4)
        model.hf.generate(ids, num_beams=1, **GREEDY)
    with pytest.raises(ValueError, match="patience"):
        monitor.watch(model, patience=0)


def test_the_cost_is_measured_in_turn(model, monitor):
    cost = monitor.cost(model, new_tokens=6, rounds=2)
    assert isinstance(cost, Cost)
    assert cost.plain > 0 < cost.watched
    assert cost.low <= cost.added <= cost.high
    assert "ms a token plain" in str(cost)
    with pytest.raises(ValueError, match="1 or more"):
        monitor.cost(model, rounds=0)
