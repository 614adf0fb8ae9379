"""A capture alone, by one worker and by two of a Ray cluster on this machine, one thread each.

Run as `python -m benchmarks.scaling`; it takes a minute or two. On one machine workers share memory and disk, so that this measures what
the engine costs, not what a network does. `docs/scaling.md` has the figures of one run.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import probekit as pk
from probekit.activations import plan
from probekit.engine import Engine, Ray


def measure(sequences: int = 96, length: int = 64) -> list[tuple[str, float, float]]:
    """For each way: its name, seconds in all, and tokens a second between the first shard and the last."""
    import ray

    torch.set_num_threads(1)
    plan.SHARD_BYTES = 4 * 2**20
    ways: list[tuple[str, Engine]] = [("alone", "local"), ("1 worker", Ray(1, cpus=1)), ("2 workers", Ray(2, cpus=1))]
    tokens = list(np.random.default_rng(0).integers(3, 1000, (sequences, length)))
    found = []
    quick = {"worker_niceness": 0}  # Ray makes workers nice, which on a busy machine is another measurement
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", _system_config=quick)
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = pk.load_model(_saved(Path(folder) / "model"))
            for name, engine in ways:
                out = Path(folder) / name.replace(" ", "-")
                began = time.perf_counter()
                store = pk.capture(model, tokens, out=out, engine=engine, progress=False)
                seconds = time.perf_counter() - began
                written = sorted(path.stat().st_mtime for path in out.glob("shard-*"))
                rows = len(store) * (1 - 1 / len(written))
                found.append((name, seconds, rows / (written[-1] - written[0])))
    finally:
        ray.shutdown()
    return found


def _saved(folder: Path) -> Path:
    """A random Llama of 26 M parameters in its blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def main() -> None:
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    for name, seconds, rate in measure():
        print(f"{name:10} {seconds:6.1f} s, {rate:7,.0f} tokens/s after the first shard")


if __name__ == "__main__":
    main()
