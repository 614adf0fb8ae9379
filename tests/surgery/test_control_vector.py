"""Control vectors as llama.cpp loads them: read back with gguf's own reader, and laid out as repeng lays them out."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch

import probekit as pk
from probekit.probes import Direction
from probekit.surgery.directions.control_vector import read_control_vector, save_control_vector
from tests.models.tiny import make_model


@pytest.fixture(scope="module")
def model() -> pk.Model:
    return pk.load_model(make_model("llama"))


def direction(model: pk.Model, layer: int, **facts: object) -> Direction:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(layer))
    known = {"scale": 0.5 * layer, "model": model.fingerprint, "provenance": {"method": "difference of means"}}
    return Direction(vector / vector.norm(), f"blocks.{layer}.hook_resid_post", **{**known, **facts})


def written_elsewhere(path, vectors: dict[str, np.ndarray], arch: str = "controlvector"):
    """As repeng writes: architecture, a hint, the number of layers, and a float32 tensor a layer, counted from 1."""
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_string(f"{arch}.model_hint", "mistral")
    writer.add_uint32(f"{arch}.layer_count", len(vectors))
    for name, vector in vectors.items():
        writer.add_tensor(name, vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("strength", [2.0, -0.5])
def test_the_file_is_what_llama_cpp_loads(model, tmp_path, strength):
    given = {2: direction(model, 2), 1: direction(model, 1)}
    path = save_control_vector(tmp_path / "deep" / "v.gguf", given, model=model, strength=strength)
    assert [p.name for p in path.parent.iterdir()] == ["v.gguf"]
    reader = gguf.GGUFReader(str(path))
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.get_field("controlvector.layer_count").contents() == 2
    # What its loader asks of each tensor: the name, float32, one dimension, the same length in all; layer 0 is refused.
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.2"]
    for tensor, layer in zip(reader.tensors, (1, 2), strict=True):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert tensor.shape.tolist() == [32]
        wanted = strength * given[layer].scale * given[layer].vector
        np.testing.assert_allclose(tensor.data, wanted, rtol=1e-6)


@pytest.mark.parametrize("strength", [2.0, -0.5])
def test_directions_come_back(model, tmp_path, strength):
    given = {layer: direction(model, layer) for layer in (1, 2)}
    read = read_control_vector(save_control_vector(tmp_path / "v.gguf", given, model=model, strength=strength))
    assert (read.model_hint, read.model, read.strength) == ("llama", model.fingerprint, strength)
    for layer, found in read.directions().items():
        torch.testing.assert_close(found.vector, given[layer].vector)
        assert found.scale == pytest.approx(given[layer].scale)
        assert (found.site, found.model) == (given[layer].site, model.fingerprint)
        assert found.provenance == {"method": "difference of means"}


def test_those_of_other_tools_are_read(tmp_path):
    vectors = {f"direction.{layer}": np.full(8, layer, np.float32) for layer in (3, 1)}
    read = read_control_vector(written_elsewhere(tmp_path / "v.gguf", vectors))
    assert (read.model_hint, read.model, read.strength) == ("mistral", None, None)
    assert list(read.vectors) == [1, 3]
    found = read.directions()[3]
    assert (found.site, found.scale) == ("blocks.3.hook_resid_post", None)
    assert found.provenance == {"method": "control vector", "length": pytest.approx(3 * 8**0.5)}


@pytest.mark.parametrize(("family", "name"), [("gpt_neox", "gptneox"), ("phi", "phi2"), ("gemma2", "gemma2"), ("gpt2", "gpt2")])  # fmt: skip
def test_the_hint_is_llama_cpps_name(tmp_path, family, name):
    model = pk.load_model(make_model(family))
    read = read_control_vector(save_control_vector(tmp_path / "v.gguf", {1: direction(model, 1)}, model=model))
    assert read.model_hint == name
    assert name in gguf.MODEL_ARCH_NAMES.values()


def test_what_llama_cpp_would_add_elsewhere_is_refused(model, tmp_path):
    path = tmp_path / "v.gguf"
    good = direction(model, 1)
    for given, kwargs, words in (
        ({}, {}, "no directions to write"),
        ({0: direction(model, 0, scale=1.0)}, {}, "adds nothing to the output of block 0; layers go from 1 to 2"),
        ({3: direction(model, 3)}, {}, "has 3 blocks; layers go from 1 to 2"),
        ({2: good}, {}, r"of blocks\.1\.hook_resid_post, but it is blocks\.2\.hook_resid_post"),
        ({1: replace(good, model="beef")}, {}, "found in the model beef"),
        ({1: replace(good, scale=None)}, {}, "measured"),
        ({1: Direction(torch.ones(9) / 3, scale=1.0)}, {}, "9 wide, the stream 32"),
        ({1: good}, {"strength": 0.0}, "other than zero"),
        ({1: good}, {"strength": float("nan")}, "finite number"),
    ):
        with pytest.raises(ValueError, match=words):
            save_control_vector(path, given, model=model, **kwargs)
    with pytest.raises(TypeError, match="layers are whole numbers"):
        save_control_vector(path, {"1": good}, model=model)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "v.gguf"
    one, two = np.ones(4, np.float32), np.ones(5, np.float32)
    for vectors, arch, words in (
        ({"direction.1": one}, "llama", "holds llama, not a control vector"),
        ({"direction.0": one}, "controlvector", r"the tensor 'direction\.0'"),
        ({"blk.1": one}, "controlvector", r"the tensor 'blk\.1'"),
        ({"direction.1": one.astype(np.float16)}, "controlvector", "must be one vector of float32, it is F16"),
        ({"direction.1": one, "direction.2": two}, "controlvector", "vectors of several widths"),
    ):
        with pytest.raises(ValueError, match=words):
            read_control_vector(written_elsewhere(path, vectors, arch))
        path.unlink()
    path.write_bytes(b"GGUF of course not" * 9)
    with pytest.raises(ValueError, match="is not a GGUF file, or is damaged"):
        read_control_vector(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_control_vector(tmp_path / "w.gguf")
