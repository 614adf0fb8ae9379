"""Architectures that are not in the table: block inputs and outputs where the blocks can be found."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BloomConfig, BloomForCausalLM, PretrainedConfig, PreTrainedModel

from probekit.models import load_model


class OddConfig(PretrainedConfig):
    model_type = "odd"

    def __init__(self, lists=("stages",), **settings):
        super().__init__(**settings)
        self.lists = list(lists)
        self.hidden_size = 16
        self.vocab_size = 20


class OddBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        x.add_(self.linear(x))  # in place: what was read before must not change afterwards
        return (x,)


class OddModel(PreTrainedModel):
    config_class = OddConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, 16)
        for name in config.lists:
            setattr(self, name, nn.ModuleList([OddBlock() for _ in range(3)]))
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for name in self.config.lists:
            for block in getattr(self, name):
                (x,) = block(x)
        return x


def test_block_inputs_and_outputs_are_read():
    torch.manual_seed(0)
    hf = BloomForCausalLM(BloomConfig(vocab_size=30, hidden_size=16, n_layer=3, n_head=2)).eval()
    model = load_model(hf)
    assert model.sites[:3] == ("hook_embed", "blocks.0.hook_resid_pre", "blocks.0.hook_resid_post")
    tokens, mask = torch.randint(0, 30, (2, 6)), torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    read = model.run(tokens, mask, model.sites)
    states = hf(tokens, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    for name, state in zip(model.stream_sites[:-1], states, strict=False):
        torch.testing.assert_close(read[name][mask], state[mask])
    with pytest.raises(KeyError, match="BloomForCausalLM is not an architecture probekit knows inside"):
        model.site("blocks.0.hook_attn_out")


def test_a_block_that_writes_in_place_does_not_change_what_was_read():
    model = load_model(OddModel(OddConfig()).eval())
    tokens = torch.arange(6).reshape(1, 6)
    read = model.run(tokens, None, model.sites)
    torch.testing.assert_close(read["blocks.0.hook_resid_pre"], model.hf.embed(tokens).detach())
    assert not torch.equal(read["blocks.0.hook_resid_pre"], read["blocks.0.hook_resid_post"])


def test_blocks_that_are_not_found_ask_for_their_name():
    with pytest.raises(ValueError, match=r"no list of blocks was found.*load_model\(\.\.\., blocks="):
        load_model(OddModel(OddConfig(lists=())))
    with pytest.raises(ValueError, match=r"not clear: first, second\. Name one: load_model\(\.\.\., blocks='first'\)"):
        load_model(OddModel(OddConfig(lists=("first", "second"))))


def test_naming_the_blocks_settles_it():
    hf = OddModel(OddConfig(lists=("first", "second"))).eval()
    model = load_model(hf, blocks="second")
    read = model.run(torch.arange(6).reshape(1, 6), None, ["blocks.2.hook_resid_post"])
    torch.testing.assert_close(read["blocks.2.hook_resid_post"], hf(torch.arange(6).reshape(1, 6)).detach())


@pytest.mark.parametrize(
    ("path", "message"), [("third", "is not there"), ("embed", "is a Embedding, not a list of blocks")]
)
def test_a_wrong_name_for_the_blocks_lists_the_right_ones(path, message):
    with pytest.raises(ValueError, match=f"{message}.*its lists are: first, second"):
        load_model(OddModel(OddConfig(lists=("first", "second"))), blocks=path)
