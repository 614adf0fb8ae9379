"""The edited model as a folder, measured again by a process that knows transformers only.

Run as a script, it is that process: `python shipped.py FOLDER REQUEST.json` prints continuations and the perplexity as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def measured_again(
    folder: Path, prompts: Sequence[str], texts: Sequence[str], new_tokens: int, window: int
) -> tuple[list[str], float]:
    """Continuations and perplexity of a folder, from a fresh process."""
    request = folder.parent / f"{folder.name}.request.json"
    request.write_text(
        json.dumps({"prompts": list(prompts), "texts": list(texts), "new": new_tokens, "window": window})
    )
    command = [sys.executable, str(Path(__file__).resolve()), str(folder), str(request)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the process that reads {folder} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["continuations"], float(found["perplexity"])


def compared(
    report: Any,
    judge: Callable[[list[str]], list[float | None]],
    continuations: list[str],
    perplexity: float,
    edited_perplexity: float,
) -> dict[str, Any]:
    """The report's figures of the edited model in memory beside those of the folder, on the same prompts."""
    name = report.behaviour.name
    before = report.scores[report.edited][name]
    after = np.array([np.nan if score is None else score for score in judge(continuations)])
    reported = ~report.parts[name]
    return {
        "in memory": float(np.nanmean(before[reported])),
        "from the folder": float(np.nanmean(after[reported])),
        "prompts scored the same": f"{int(np.isclose(before, after, atol=1e-6, equal_nan=True).sum())} of {len(after)}",
        "perplexity in memory": edited_perplexity,
        "perplexity from the folder": perplexity,
    }


def _main(folder: str, request: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = json.loads(Path(request).read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    said, lost, count = [], 0.0, 0
    with torch.no_grad():
        for prompt in asked["prompts"]:
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=asked["new"], do_sample=False)
            said.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
        for text in asked["texts"]:
            whole = tokenizer(text, return_tensors="pt")["input_ids"]
            for start in range(0, whole.shape[1], asked["window"]):
                ids = whole[:, start : start + asked["window"]]
                if ids.shape[1] > 1:
                    logits = model(input_ids=ids).logits[0, :-1]
                    lost += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
                    count += ids.shape[1] - 1
    print(json.dumps({"continuations": said, "perplexity": float(np.exp(lost / count))}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
