"""Tasks of the LM Evaluation Harness as side effects; the harness is not needed for anything else."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from probekit.models import Model
from probekit.models.transformer_lens import is_transformer_lens
from probekit.surgery.evaluating.behaviour import SELECT, Behaviour, as_scores


class HarnessTask(Behaviour):
    """See `lm_eval_tasks`."""

    def __init__(self, task: str, limit: int, metric: str, few_shot: int | None, **split: Any) -> None:
        super().__init__(f"{task} ({metric})", "score", range(limit), **split)
        self.unit_range = metric.startswith(("acc", "exact_match"))
        self.task, self.metric, self.few_shot = task, metric, few_shot
        self._key += [task, metric, few_shot]
        self.limit = limit

    def measure(self, model: Model) -> np.ndarray:
        lm_eval = _harness()
        HFLM = importlib.import_module("lm_eval.models.huggingface").HFLM
        if is_transformer_lens(model.hf):
            raise ValueError("the harness runs Hugging Face models, not TransformerLens models")
        language_model = HFLM(pretrained=model.hf, tokenizer=model.tokenizer)
        found = lm_eval.simple_evaluate(
            model=language_model, tasks=[self.task], limit=self.limit, num_fewshot=self.few_shot, bootstrap_iters=0, log_samples=True
        )  # fmt: skip
        samples = found["samples"][self.task]
        by_document: dict[int, Any] = {}
        for sample in samples:  # of several filters, the first
            by_document.setdefault(int(sample["doc_id"]), sample)
        if len(by_document) < self.limit:
            raise ValueError(f"the task {self.task} has {len(by_document)} documents: give limit={len(by_document)}")
        first = [by_document[i] for i in sorted(by_document)]
        each = [first[i] for i in self.items]
        if self.metric not in each[0]:
            numbers = [key for key, value in each[0].items() if isinstance(value, int | float) and key != "doc_id"]
            raise KeyError(f"the task {self.task} has no metric {self.metric!r}; it has {', '.join(numbers)}")
        return as_scores([sample[self.metric] for sample in each], len(self), self.name)


def lm_eval_tasks(
    names: Sequence[str],
    *,
    limit: int = 100,
    metric: str = "acc",
    few_shot: int | None = None,
    seed: int = 0,
    select: float = SELECT,
) -> list[HarnessTask]:
    """Tasks of the LM Evaluation Harness, a score a document.

    Source: Gao et al., "The Language Model Evaluation Harness" (EleutherAI, package `lm_eval`), which is an extra: it downloads
    the data of its tasks.

    Args:
        names: Of tasks: `["arc_easy"]`.
        limit: Documents of each, the first ones.
        metric: Which of the task's.
        few_shot: Examples before each question; the task's own number when left out.
        seed, select: As in `generations`.

    Raises:
        ImportError: the harness is not installed.
    """
    _harness()
    return [HarnessTask(name, limit, metric, few_shot, seed=seed, select=select) for name in names]


def _harness() -> Any:
    try:
        return importlib.import_module("lm_eval")
    except ImportError as error:
        raise ImportError(
            "the LM Evaluation Harness is not installed: pip install lm_eval (the extra `tasks`; surgery.choices scores tasks "
            "of your own without it)"
        ) from error
