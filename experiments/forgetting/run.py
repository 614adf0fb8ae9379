"""Does a model that is tuned on random labels forget the task, or only those items?

    python experiments/forgetting/run.py --model SmolLM2-135M-Instruct.Q4_1.gguf --data FOLDER --out out/forgetting

Zhang, Choshen & Andreas 2024, "Unforgettable Generalization in Language Models" (arXiv 2409.02228): forgetting by random labels, on
the items themselves, on held-out ones and on other tasks; what predicts it; what a linear probe still reads afterwards. Beyond the
paper: whether LEACE at every layer makes the probe fail too, and what that costs. Every condition is kept as it is finished; a run
that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import conditions
import numpy as np
import page
import summary
import torch
from tasks import Items, Task, read_tasks
from tuning import pairs, random_labels, tune

import probekit as pk
from probekit import surgery
from probekit.files import write_whole
from probekit.versions import versions_of

KINDS = (
    "forgotten",
    "right labels again",
    "erased",
    "permuted labels erased",
    "erased at every token",
    "erased, read on other items",
)
"""Conditions of each task; `forgotten` comes with its own erasing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="SmolLM2-135M: a GGUF file, a folder, or a Hub id")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the statements, reviews, tweets and WikiText-2"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--tune", type=int, default=192, help="items of a task that the model is tuned on, and then forgets"
    )
    parser.add_argument("--fit", type=int, default=600, help="items of a task that probes and erasers are fitted on")
    parser.add_argument("--test", type=int, default=192)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--forget-epochs", type=int, help="over the random labels; as many as --epochs if left out")
    parser.add_argument("--tasks", nargs="*", help="those to forget; all if left out")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument(
        "--only", nargs="*", choices=KINDS, metavar="KIND", help=f"some of the kinds of condition: {', '.join(KINDS)}"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    (args.out / "conditions").mkdir(parents=True, exist_ok=True)
    tasks = read_tasks(args.data, args.seed, args.tune, args.fit, args.test)
    if unknown := set(args.tasks or ()) - set(tasks):
        parser.error(f"no task {min(unknown)!r}; there are {', '.join(tasks)}")
    texts = conditions.paragraphs(args.data, 12)
    run = Run(args, tasks, texts)
    for kind in args.only or KINDS:
        for name in args.tasks or tasks:
            run.do(kind, name)
    found = {file.stem: json.loads(file.read_text()) for file in sorted((args.out / "conditions").glob("*.json"))}
    tables = summary.tables(tasks, found, args.seed)
    for title, table in tables.items():
        table.to_csv(args.out / f"{title.replace(' ', '_')}.csv", index=False)
        print(f"\n## {title}\n{table.to_markdown(index=False)}")
    (args.out / "facts.json").write_text(json.dumps(run.facts(), indent=1, default=str) + "\n")
    page.write(args.out / "report.html", tables, summary.probe_curves(found), run.facts())


class Run:
    """The models of the experiment, one in memory at a time, and the conditions that are measured of them."""

    def __init__(self, args: argparse.Namespace, tasks: dict[str, Task], texts: list[str]) -> None:
        self.args, self.tasks, self.texts = args, tasks, texts
        self.began = time.perf_counter()
        self._tuned: tuple[pk.Model, dict[str, torch.Tensor]] | None = None

    def say(self, words: str) -> None:
        print(f"{time.perf_counter() - self.began:6.0f} s  {words}", flush=True)

    def facts(self) -> dict[str, Any]:
        given = {k: v for k, v in vars(self.args).items() if k not in ("out", "only", "tasks")}
        return given | {
            "versions": versions_of("torch", "transformers", "numpy", "scikit-learn"),
            "items": {n: [len(t.tune), len(t.fit), len(t.test)] for n, t in self.tasks.items()},
        }

    def keep(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure a condition unless it is there."""
        path = self.args.out / "conditions" / f"{name}.json"
        if path.exists():
            return
        self.say(name)
        found = measure()
        write_whole(path, json.dumps(found))

    def done(self, name: str) -> bool:
        return (self.args.out / "conditions" / f"{name}.json").exists()

    def tuned(self) -> pk.Model:
        """The model that can do all tasks: tuned on right answers of all of them together. Its weights are as they were saved."""
        if self._tuned is None:
            folder = self.args.out / "tuned"
            if not folder.exists():
                self._tune_all(folder)
            model = pk.load_model(folder)
            self._tuned = model, {name: value.clone() for name, value in model.hf.state_dict().items()}
        model, weights = self._tuned
        model.hf.load_state_dict(weights)
        model = pk.load_model(model.hf, tokenizer=model.tokenizer)
        self.keep("tuned", lambda: self.measure_all(model))
        return model

    def _tune_all(self, folder: Path) -> None:
        model = pk.load_model(self.args.model)
        self.keep("plain", lambda: {"answers": conditions.answers(model, self.tasks), "ordinary": conditions.ordinary(model, self.texts)})  # fmt: skip
        taught = [pair for task in self.tasks.values() for pair in pairs(task, task.tune)]
        tune(
            model,
            taught,
            epochs=self.args.epochs,
            learning_rate=self.args.learning_rate,
            seed=self.args.seed,
            say=self.say,
        )
        if hasattr(model.hf.config, "quantization_config"):
            del model.hf.config.quantization_config
        partial = folder.with_name("tuned.partial")
        shutil.rmtree(partial, ignore_errors=True)
        model.hf.save_pretrained(partial)
        model.tokenizer.save_pretrained(partial)
        partial.replace(folder)

    def measure_all(self, model: pk.Model) -> dict[str, Any]:
        each = self.tasks.items()
        return {
            "answers": conditions.answers(model, self.tasks),
            "to forget": {name: conditions.odds(model, task, task.tune) for name, task in each},
            "ordinary": conditions.ordinary(model, self.texts),
            "variability": {name: conditions.variability(model, task) for name, task in each},
            "readable": {name: conditions.readable(model, task, self.args.seed) for name, task in each},
        }

    def measure(self, model: pk.Model, own: str, *, read: bool = True) -> dict[str, Any]:
        found: dict[str, Any] = {
            "answers": conditions.answers(model, self.tasks, own),
            "ordinary": conditions.ordinary(model, self.texts),
        }
        if read:
            found["readable"] = conditions.readable(model, self.tasks[own], self.args.seed)
        return found

    def do(self, kind: str, name: str) -> None:
        """One kind of condition for one task."""
        task, seed = self.tasks[name], self.args.seed
        if kind in ("forgotten", "right labels again"):
            names = [f"{kind} {name}"] + [f"forgotten, then erased {name}"] * (kind == "forgotten")
            if all(map(self.done, names)):
                return
            model = self.tuned()
            labels = random_labels(task.tune, seed) if kind == "forgotten" else None
            self.say(f"tuning: {names[0]}")
            lost = tune(
                model,
                pairs(task, task.tune, labels),
                epochs=self.args.forget_epochs or self.args.epochs,
                learning_rate=self.args.learning_rate,
                seed=seed,
                say=self.say,
            )
            model = pk.load_model(model.hf, tokenizer=model.tokenizer)
            about: dict[str, Any] = {"loss": lost}
            if labels is not None:
                about |= {"labels": labels.tolist(), "to forget": conditions.odds(model, task, task.tune)}
            self.keep(names[0], lambda: self.measure(model, name, read=kind == "forgotten") | about)
            if kind == "forgotten":
                self.keep(names[1], lambda: self.erased(model, name, task.fit.right, kind))
            return
        condition = f"{kind} {name}"
        if self.done(condition):
            return
        if kind == "erased, read on other items":
            if parts := self.other_items(name):
                model = self.tuned()
                self.keep(condition, lambda: self.read_on_others(model, *parts))
            return
        model, right = self.tuned(), task.fit.right
        if kind == "permuted labels erased":
            right = np.random.default_rng([seed, 0xE5]).permutation(right)
        self.keep(condition, lambda: self.erased(model, name, right, kind))

    @cached_property
    def larger(self) -> dict[str, Task]:
        """The tasks with twice as many items to fit on, where there are as many; tune and test as they are."""
        args = self.args
        return read_tasks(args.data, args.seed, args.tune, 2 * args.fit, args.test)

    def other_items(self, name: str) -> tuple[Items, Task] | None:
        """Items to fit erasers on, and the task with others for its probe; None where the task has too few for both."""
        task = self.larger[name]
        first = np.isin(task.fit.subject, task.fit.subject[: self.args.fit])
        if (~first).sum() < conditions.PROBED:
            self.say(f"{name} has too few items for erasers and a probe on items of their own")
            return None
        return task.fit.where(first), replace(task, fit=task.fit.where(~first))

    def read_on_others(self, model: pk.Model, fitted: Items, task: Task) -> dict[str, Any]:
        """LEACE as in `erased`, but the probe is fitted on items that no eraser has seen."""
        erasers = surgery.scrub(model, fitted.prompts, fitted.right, where=[-1])
        with surgery.erase(erasers, model, where=[-1]).applied(model):
            return {
                "items": [len(fitted), len(task.fit)],
                "fitted": conditions.odds(model, task, fitted.first(300)),
                "fitted right": fitted.first(300).right.tolist(),
                "test": conditions.odds(model, task, task.test),
                "readable": conditions.readable(model, task, self.args.seed),
            }

    def erased(self, model: pk.Model, name: str, right: np.ndarray, kind: str) -> dict[str, Any]:
        """With LEACE at every layer, fitted layer by layer, at the last token, where answers are read, or at every token."""
        place = "all" if kind == "erased at every token" else [-1]
        erasers = surgery.scrub(model, self.tasks[name].fit.prompts, right, where=place)
        with surgery.erase(erasers, model, where=place).applied(model):
            found = self.measure(model, name, read=kind != "permuted labels erased")
        # In ordinary text no token is the last: there it costs what it costs at every token.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the erasers were fitted")
            everywhere = surgery.erase(erasers, model)
        with everywhere.applied(model):
            found["ordinary"] = conditions.ordinary(model, self.texts)
        return found


if __name__ == "__main__":
    main()
