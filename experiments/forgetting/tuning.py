"""Full fine-tuning on one answer token a prompt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from tasks import Items, Task
from torch import Tensor

import probekit as pk


def pairs(task: Task, items: Items, labels: np.ndarray | None = None) -> list[tuple[str, str]]:
    """Prompts and the answers to teach: the right ones, or those that `labels` name."""
    return [(p, task.answers[a]) for p, a in zip(items.prompts, items.right if labels is None else labels, strict=True)]


def random_labels(items: Items, seed: int) -> np.ndarray:
    """`[item]` random answers, independent of the right ones: exactly half of each right answer's items are taught the other."""
    rng = np.random.default_rng([seed, 0xF0])
    labels = items.right.copy()
    for answer in (0, 1):
        rows = rng.permutation(np.flatnonzero(items.right == answer))
        labels[rows[: len(rows) // 2]] = 1 - answer
    return labels


def tune(
    model: pk.Model,
    taught: list[tuple[str, str]],
    *,
    epochs: int,
    learning_rate: float,
    batch: int = 16,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> list[float]:
    """Change all weights of the model so that it gives the answers (AdamW, linear warm-up and decay); gives the loss a step.

    The loss is the cross-entropy of the answer's token, over the whole vocabulary, after the prompt's last.
    """
    hf, tokenizer = model.hf, model.tokenizer
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in taught]
    answers = torch.tensor([tokenizer(answer, add_special_tokens=False)["input_ids"][0] for _, answer in taught])
    rng = np.random.default_rng([seed, 0x7E])
    steps = [rows for _ in range(epochs) for rows in _batches([len(p) for p in prompts], batch, rng)]
    optimizer = torch.optim.AdamW(hf.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    warm = max(1, len(steps) // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warm, (len(steps) - i) / max(1, len(steps) - warm))
    )
    lost = []
    with torch.enable_grad():
        for i, rows in enumerate(steps):
            ids, mask = _left_padded([prompts[r] for r in rows])
            out = hf(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                logits_to_keep=1,
                use_cache=False,
            )
            loss = torch.nn.functional.cross_entropy(out.logits[:, -1].float(), answers[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            lost.append(float(loss.detach()))
            if i % 20 == 0 or i + 1 == len(steps):
                say(f"step {i + 1} of {len(steps)}, loss {np.mean(lost[-20:]):.3f}")
    optimizer.zero_grad()
    return lost


def _batches(lengths: list[int], batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One epoch in a random order; prompts of a batch are of about the same length, so that little of it is padding."""
    order = rng.permutation(len(lengths))
    window = 6 * batch
    near = [sorted(order[i : i + window], key=lambda row: lengths[row]) for i in range(0, len(order), window)]
    each = [np.array(part[i : i + batch]) for part in near for i in range(0, len(part), batch)]
    return [each[i] for i in rng.permutation(len(each))]


def _left_padded(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, sequences))
    ids, mask = torch.zeros(len(sequences), longest, dtype=torch.long), torch.zeros(len(sequences), longest, dtype=torch.long)  # fmt: skip
    for row, sequence in enumerate(sequences):
        ids[row, longest - len(sequence) :] = torch.tensor(sequence)
        mask[row, longest - len(sequence) :] = 1
    return ids, mask
