"""Models in parts, some of them on disk: the same numbers, the same edits, and a reason where an edit cannot be had."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.data import Dataset, LabelSet
from probekit.models.fingerprint import fingerprint_model
from probekit.models.placement import in_memory, offloaded
from probekit.models.stepping import Stepper
from probekit.models.unembedding import logit_effects
from probekit.surgery import Direction, Where, orthogonalize, patch, set_feature, steer
from tests.models.tiny import save_tiny_model

SITE = "blocks.1.hook_resid_post"
TOKENS = torch.arange(5, 29).reshape(2, 12)
LAYERS = {"gpt2": "transformer.h", "gemma": "model.layers"}


def spread_over(family: str) -> dict[str, str]:
    """The first block in memory, the embedding (which is tied) and the rest on disk."""
    if family == "gpt2":
        rest = {"transformer.wte": "disk", "transformer.wpe": "cpu", "transformer.ln_f": "cpu", "lm_head": "disk"}
    else:
        rest = {"model.embed_tokens": "disk", "model.rotary_emb": "cpu", "model.norm": "disk", "lm_head": "disk"}
    blocks = LAYERS.get(family, "model.layers")
    return {f"{blocks}.{i}": place for i, place in enumerate(["cpu", "disk", "disk"])} | rest


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma"])
def pair(request, tmp_path_factory):
    """A model whole, and in parts."""
    folder = save_tiny_model(tmp_path_factory.mktemp("models") / request.param, request.param)
    parts = pk.load_model(
        folder, device_map=spread_over(request.param), offload_folder=tmp_path_factory.mktemp("offloaded")
    )
    assert len(offloaded(parts.hf)) > 5
    return pk.load_model(folder), parts


def direction(model):
    vector = torch.from_numpy(np.random.default_rng(0).normal(size=model.d_model))
    return Direction(vector / vector.norm(), SITE, scale=1.0, model=model.fingerprint)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(input_ids=TOKENS).logits


def test_it_is_the_same_model(pair):
    whole, parts = pair
    assert fingerprint_model(parts.hf) == whole.fingerprint
    assert parts.device == torch.device("cpu")
    assert torch.equal(logits(parts), logits(whole))
    assert fingerprint_model(parts.hf) == whole.fingerprint, "running it has changed what it is"
    for name, weight in whole.hf.state_dict().items():
        assert torch.equal(in_memory(parts.hf, name), weight), name


def test_every_site_is_read_the_same(pair):
    whole, parts = pair
    mask = torch.arange(12) < torch.tensor([[12], [7]])
    ours, theirs = (model.run(TOKENS, mask, model.sites) for model in (parts, whole))
    for site in whole.sites:
        assert torch.equal(ours[site], theirs[site]), site


def test_captures_and_sweeps_are_the_same(pair, tmp_path):
    whole, parts = pair
    rng = np.random.default_rng(0)
    sequences = [rng.integers(3, 64, 6) for _ in range(120)]
    data = Dataset(
        "some", tokens=sequences, labels={"odd": LabelSet.from_values("odd", [bool(s[-1] % 2) for s in sequences])}
    )
    files = []
    for model in (whole, parts):
        store = pk.capture(model, data, out=tmp_path / str(id(model)), progress=False)
        files.append({path.name: path.read_bytes() for path in store.path.iterdir()})
    assert files[0] == files[1]
    given = {"pool": "last", "n_boot": 100, "progress": False, "controls": False}
    frames = [pk.sweep(model, data, "odd", **given).to_frame() for model in (whole, parts)]
    assert frames[0].equals(frames[1])
    with pytest.raises(ValueError, match=r"parts of the model are on disk .*controls=False"):
        parts.randomized(0)


def test_edits_of_activations_are_the_same_and_leave_nothing(pair):
    whole, parts = pair
    before = logits(parts)
    d = direction(whole)
    sae = type("Dictionary", (), {"W_dec": torch.eye(32), "encode": lambda self, h: h})()
    given = torch.from_numpy(np.random.default_rng(1).normal(size=(12, 32))).float()
    edits = [
        lambda model: steer(d, model, 3.0),
        lambda model: steer(d, model, 3.0, where=Where(tokens=(0, 3))),
        lambda model: patch(model, SITE, given),
        lambda model: set_feature(sae, 3, model, value=2.0, site=SITE),
    ]
    for make in edits:
        found = []
        for model in (whole, parts):
            with make(model).applied(model):
                found.append(logits(model))
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[1], before)
    assert torch.equal(logits(parts), before)
    assert parts.fingerprint == whole.fingerprint


def test_edits_of_weights_are_refused_with_the_reason(pair):
    whole, parts = pair
    with pytest.raises(ValueError, match=r"weights of '.*' are not in memory \(.*device_map offloaded them"):
        orthogonalize(direction(whole), parts)
    made = orthogonalize(direction(whole), whole)
    with pytest.raises(ValueError, match="device_map offloaded them"):
        made.apply_(parts)
    assert parts.fingerprint == whole.fingerprint


def test_a_map_without_offloading_takes_edits_of_weights_back_bit_for_bit(tmp_path):
    folder = save_tiny_model(tmp_path / "tiny")
    whole, placed = pk.load_model(folder), pk.load_model(folder, device_map={"": "cpu"})
    before = {name: weight.clone() for name, weight in placed.hf.state_dict().items()}
    edit = orthogonalize(direction(whole), placed)
    with edit.applied(placed), edit.applied(whole):
        assert torch.equal(logits(placed), logits(whole))
        assert placed.fingerprint != edit.model
    assert all(torch.equal(weight, before[name]) for name, weight in placed.hf.state_dict().items())
    assert torch.equal(
        placed.randomized(0).run(TOKENS, None, [SITE])[SITE], whole.randomized(0).run(TOKENS, None, [SITE])[SITE]
    )


def test_block_by_block_and_through_the_unembedding(pair):
    whole, parts = pair
    streams = []
    for model in (whole, parts):
        stepper = Stepper(model, TOKENS, None, 3)
        stepper.check()
        for _ in range(3):
            stepper.step()
        streams.append(stepper.stream)
    assert torch.equal(*streams)
    vectors = torch.eye(32)[:4]
    assert torch.equal(logit_effects(parts, vectors), logit_effects(whole, vectors))


def test_another_process_spreads_it_likewise(pair):
    _, parts = pair
    again = pickle.loads(pickle.dumps(parts))
    assert len(offloaded(again.hf)) > 5
    assert set(offloaded(again.hf)) <= set(offloaded(parts.hf))
    assert again.fingerprint == parts.fingerprint


def test_a_copy_is_a_model_of_its_own(pair):
    whole, parts = pair
    other = copy.deepcopy(parts)
    with steer(direction(whole), other, 3.0).applied(other):
        assert not torch.equal(logits(other), logits(whole))
        assert torch.equal(logits(parts), logits(whole))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device_map": "auto", "device": "cpu"}, "give device='cpu' or device_map, not both"),
        ({"offload_folder": "x"}, "offload_folder goes with device_map"),
        ({"device_map": "sideways"}, "cannot be loaded: .*'auto'"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_model_folder, given, message):
    with pytest.raises(ValueError, match=message):
        pk.load_model(tiny_model_folder, **given)


def test_only_what_is_loaded_can_be_spread(pair, tmp_path):
    whole, _ = pair
    with pytest.raises(ValueError, match=r"not for a model that is in memory"):
        pk.load_model(whole.hf, device_map="auto")
    with pytest.raises(ValueError, match=r"not for a GGUF file"):
        pk.load_model(tmp_path / "model.gguf", device_map="auto")
    meta = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(ValueError, match="weight has no values"):
        in_memory(meta, "weight")
