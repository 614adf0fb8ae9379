"""Block by block a batch goes through a model as it does at once, and models that work otherwise are refused."""

from __future__ import annotations

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from probekit.models import load_model
from probekit.models.editing import changed_at
from probekit.models.stepping import Stepper
from tests.models.test_editing import hooked
from tests.models.test_unknown_architectures import OddConfig, OddModel
from tests.models.tiny import CONFIGS, VOCAB, make_model

MASK = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [1] * 7 + [0] * 2], dtype=torch.bool)


def bloom():
    torch.manual_seed(0)
    return BloomForCausalLM(BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=3, n_head=4)).eval()


def tokens(most: int = VOCAB) -> torch.Tensor:
    return torch.randint(4, most, MASK.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", [*CONFIGS, "bloom", "odd"])
def test_the_stream_after_each_block_is_that_of_the_model(family):
    known = family in CONFIGS
    model = load_model(make_model(family) if known else bloom() if family == "bloom" else OddModel(OddConfig()).eval())
    model.hf.train()
    batch = tokens(20)
    first = model.stream_sites[0]

    def other(h):
        return torch.where(torch.arange(h.shape[1])[:, None] % 2 == 0, h, 2 * h + 1)

    for change in (lambda h: h, other):
        with changed_at(model, first, change):
            wanted = model.run(batch, MASK, model.stream_sites)
        stepper = Stepper(model, batch, MASK, model.n_layers)
        stepper.check()
        stepper.stream = change(stepper.stream)
        for site in model.stream_sites:
            torch.testing.assert_close(stepper.stream[MASK], wanted[site][MASK], atol=1e-5, rtol=1e-5)
            if site != model.stream_sites[-1]:
                stepper.step()
    assert stepper.done == model.n_layers
    assert all(module.training for module in model.hf.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.hf.modules())


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
def test_half_precision_is_no_reason_to_refuse(family):
    model = load_model(make_model(family).bfloat16())
    stepper = Stepper(model, tokens(), MASK, 3)
    begun = stepper.stream.clone()
    stepper.check()
    assert torch.equal(stepper.stream, begun)
    assert stepper.done == 0


def test_no_block_at_all_is_the_embedding():
    model = load_model(make_model("llama"))
    stepper = Stepper(model, tokens(), None, 0)
    stepper.check()
    assert torch.equal(stepper.stream, model.run(tokens(), None, model.stream_sites[:1])[model.stream_sites[0]])


class Beside(OddModel):
    """Every block is given the embeddings, too."""

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for block in self.stages:
            x = x + self.embed(input_ids)
            (x,) = block(x)
        return x


class Twice(OddModel):
    """Goes through its blocks two times."""

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for block in (*self.stages[:2], *self.stages):
            (x,) = block(x)
        return x


def test_models_that_are_no_chain_of_blocks_are_refused():
    stepper = Stepper(load_model(Beside(OddConfig()).eval()), tokens(20), None, 3)
    with pytest.raises(ValueError, match="something besides the stream goes from block to block"):
        stepper.check()
    with pytest.raises(ValueError, match="do not run once each, in order"):
        Stepper(load_model(Twice(OddConfig()).eval()), tokens(20), None, 3)
    with pytest.raises(ValueError, match="is a TransformerLens model, whose blocks are not called one by one"):
        Stepper(load_model(hooked()), tokens(20), None, 3)
