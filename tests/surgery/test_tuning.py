"""Tuning brings its loss down, comes out as an edit like any other, and leaves the model as it was."""

from __future__ import annotations

import pytest
import torch

from probekit.surgery.edits.edit import edits_on
from probekit.surgery.edits.linear import steer
from probekit.surgery.evaluating.behaviours import next_token
from probekit.surgery.evaluating.damage import perplexity
from probekit.surgery.evaluating.evaluation import evaluate
from probekit.surgery.evaluating.tuning import lora, mezo
from tests.surgery.spoken import speaking, texts, to_paris, unchanged, weights

WANTED = ["paris paris paris paris", "the paris", "of paris in paris"]
QUICK = {"lora": {"steps": 25, "learning_rate": 1e-2}, "mezo": {"steps": 60, "learning_rate": 1e-4}}
TUNE = {"lora": lora, "mezo": mezo}


def loss_of(model) -> float:
    measure = perplexity(WANTED)
    scores = measure.measure(model)
    return float((scores * measure.weights).sum() / measure.weights.sum())


@pytest.mark.parametrize("method", ["lora", "mezo"])
def test_tuning_brings_the_loss_down_and_leaves_the_model_alone(method):
    model = speaking()
    before, fingerprint, plain = weights(model), model.fingerprint, loss_of(model)
    required = [p.requires_grad for p in model.hf.parameters()]
    model.hf.train()
    edit = TUNE[method](model, WANTED, **QUICK[method])
    assert model.hf.training
    model.hf.eval()
    assert unchanged(model, before)
    assert [p.requires_grad for p in model.hf.parameters()] == required
    assert model.fingerprint == fingerprint
    assert edit.details["last_loss"] < edit.details["first_loss"]
    with edit.applied(model):
        assert loss_of(model) < plain - 0.1
    assert unchanged(model, before)
    assert loss_of(model) == plain


@pytest.mark.parametrize("method", ["lora", "mezo"])
def test_the_same_seed_gives_the_same_edit(method):
    def found(seed):
        edit = TUNE[method](speaking(), WANTED, **(QUICK[method] | {"steps": 3, "seed": seed}))
        return torch.cat([part.values.flatten() for part in edit.parts])

    assert torch.equal(found(0), found(0))
    assert not torch.equal(found(0), found(1))


@pytest.mark.parametrize("method", ["lora", "mezo"])
def test_the_model_is_put_back_after_an_exception(method):
    model = speaking()
    before, calls = weights(model), []

    def loss(m):
        calls.append(m)
        if len(calls) == 4:
            raise RuntimeError("no more data")
        return m.hf(torch.tensor([[1, 5, 6]])).logits.square().mean()

    with pytest.raises(RuntimeError, match="no more data"):
        TUNE[method](model, loss, steps=10)
    assert unchanged(model, before)
    assert type(model.hf.model.layers[0].mlp.down_proj) is torch.nn.Linear


def test_one_step_of_mezo_is_algorithm_1():
    model = speaking()
    name = "model.layers.1.mlp.down_proj.weight"
    weight = model.hf.get_parameter(name)
    seen = []

    def loss(m):
        seen.append(weight.detach().clone())
        return m.hf(torch.tensor([[1, 5, 6]])).logits.square().mean()

    before = weight.detach().clone()
    edit = mezo(model, loss, steps=1, learning_rate=0.01, epsilon=1e-2, parameters=[name])
    z = (seen[0] - before) / 1e-2
    torch.testing.assert_close(seen[1], before - 1e-2 * z, atol=1e-5, rtol=0)
    assert float(z.mean()) == pytest.approx(0, abs=0.1)
    assert float(z.std()) == pytest.approx(1, abs=0.1)
    values = []
    for w in seen[:2]:
        with torch.no_grad():
            weight.copy_(w)
            values.append(float(loss(model)))
    slope = (values[0] - values[1]) / 2e-2
    torch.testing.assert_close(edit.parts[0].values, before - 0.01 * slope * z, atol=1e-4, rtol=1e-3)


def test_lora_adds_low_rank_within_its_budget():
    model = speaking()
    edit = lora(model, WANTED, rank=2, steps=5, learning_rate=1e-2)
    assert edit.details["trained"] == 3 * 2 * (32 + 48)
    for part in edit.parts:
        change = part.values - model.hf.get_parameter(part.parameter)
        assert torch.linalg.matrix_rank(change.double(), atol=1e-5) == 2
    small = lora(model, WANTED, rank=1, budget=170, steps=2)
    assert small.details["trained"] == 160
    assert small.parameters == ("model.layers.2.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight")
    with pytest.raises(ValueError, match="the least that rank 1 takes is 80"):
        lora(model, WANTED, budget=10)


def test_lora_of_gpt2s_own_kind_of_layer():
    model = speaking("gpt2")
    before = weights(model)
    edit = lora(model, WANTED, **QUICK["lora"])
    assert edit.details["last_loss"] < edit.details["first_loss"]
    assert unchanged(model, before)


def test_tuned_edits_are_evaluated_beside_others():
    model = speaking()
    behaviour = next_token(texts(16, 5), ["paris"], name="paris")
    report = evaluate(
        model, steer(to_paris(model), model, 2.0), behaviour=behaviour, side_effects=[perplexity(texts(16, 10, 1))], controls=0,
        baselines={"LoRA": lora(model, WANTED, **QUICK["lora"])}, progress=False,
    )  # fmt: skip
    assert report.figure("paris", "LoRA").low > 0
    alone = evaluate(model, lora(model, WANTED, **QUICK["lora"]), behaviour=behaviour, progress=False)
    assert alone.figure("paris") == report.figure("paris", "LoRA")
    assert not edits_on(model)


def test_what_cannot_be_tuned_is_refused():
    model = speaking()
    with pytest.raises(KeyError, match=r"no parameter 'layers\.0'"):
        mezo(model, WANTED, parameters=["layers.0"])
    with pytest.raises(ValueError, match="not empty"):
        mezo(model, [])
    with pytest.raises(ValueError, match="steps must be"):
        mezo(model, WANTED, steps=0)
    with pytest.raises(ValueError, match="no matrix"):
        lora(model, WANTED, parameters=["model.norm.weight"])
    with steer(to_paris(model), model, 1.0).applied(model), pytest.raises(ValueError, match="undo it"):
        lora(model, WANTED)
    with pytest.raises(ValueError, match="smaller learning rate"):
        mezo(model, WANTED, steps=20, learning_rate=1e30)
