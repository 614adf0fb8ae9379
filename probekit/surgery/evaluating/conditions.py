"""Conditions of an evaluation (plain, edited, controls, prompted), measured one at a time and kept on disk if wanted."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from probekit.files import with_nans, with_nulls, write_whole
from probekit.models import Model
from probekit.surgery.edits.activation_edit import ActivationEdit
from probekit.surgery.edits.edit import Edit, edits_on
from probekit.surgery.edits.weight_edits import WeightEdit
from probekit.surgery.evaluating.behaviour import Behaviour
from probekit.surgery.evaluating.generations import Generations

Kind = Literal["plain", "edit", "control", "prompt", "baseline"]
_FORMAT = "probekit.condition"


@dataclass(frozen=True)
class Condition:
    """One state of the model that everything is measured in.

    Attributes:
        name: Different for different conditions.
        edit: What is on the model; None for none.
        strength: Of that edit.
        control: Which kind of control, or empty.
        prefix: Text put before every prompt, or None.
    """

    name: str
    kind: Kind
    edit: Edit | None = None
    strength: float | None = None
    control: str = ""
    prefix: str | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured in a condition.

    Attributes:
        scores: By measure, `[item]` float64; NaN where there is none.
        weights: By measure, `[item]` float64.
        texts: What was generated for the prompts, if anything was.
    """

    scores: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]
    texts: tuple[str, ...] | None = None


class Measuring:
    """Measures conditions, each once; a context manager, after which nothing of the plain model is kept.

    Args:
        model: As it is now is what "plain" means.
        measures: The behaviour, then the side effects; their names differ.
        out: Folder for what was measured, so that an evaluation that was killed goes on; None keeps nothing.
    """

    def __init__(self, model: Model, measures: Sequence[Behaviour], out: Path | None) -> None:
        self.model, self.measures, self.out = model, tuple(measures), out
        names = [measure.name for measure in measures]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two measures are called {twice[0]!r}: give one of them another name=")
        self._prepared = False
        on = [digest_of(edit) for edit in edits_on(model)]
        self._same = json.dumps([model.fingerprint, on, [measure.describe() for measure in measures]], default=str)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Measuring:
        return self

    def __exit__(self, *error: object) -> None:
        for measure in self.measures:
            measure.forget()
        self._prepared = False

    @property
    def generating(self) -> Generations | None:
        """What makes the texts that are shown as examples: the behaviour, or else what a side effect reads."""
        each = (*self.measures[:1], *(measure.source for measure in self.measures))
        return next((one for one in each if isinstance(one, Generations)), None)

    def of(self, condition: Condition) -> Measured:
        """Scores in a condition, from the disk if they are there.

        Whatever a scorer raises comes through; the edit is off the model then.
        """
        path = None if self.out is None else self.out / f"{self._key(condition)}.json"
        found = None if path is None else _read(path)
        if found is None:
            found = self._measure(condition)
            if path is not None:
                _write(path, found, condition.name)
        for measure in self.measures:
            if len(found.scores[measure.name]) != len(measure):
                raise ValueError(
                    f"{path} holds {len(found.scores[measure.name])} scores of {measure.name!r}, not {len(measure)}"
                )
        return found

    def _measure(self, condition: Condition) -> Measured:
        if not self._prepared:
            for measure in self.measures:
                measure.prepare(self.model)
            self._prepared = True
        prefix = condition.prefix
        taken = {m.name: m if prefix is None else m.with_prefix(prefix) for m in self.measures}
        here = {name: measure for name, measure in taken.items() if measure is not None}
        sources = dict.fromkeys(m.source for m in here.values() if m.source is not None)
        scores = {measure.name: np.full(len(measure), np.nan) for measure in self.measures}
        with warnings.catch_warnings():
            if condition.kind == "control":  # as long as the edit itself, which has said so
                warnings.filterwarnings("ignore", message=".*the edit adds a vector|.*stay as they are")
            with nullcontext() if condition.edit is None else condition.edit.applied(self.model):
                for source in sources:
                    if source not in here.values():
                        source.measure(self.model)
                # What generates comes before what reads it.
                for name, measure in sorted(here.items(), key=lambda pair: pair[1].source is not None):
                    scores[name] = _checked(measure.measure(self.model), measure)
        for name, measure in here.items():
            scores[name] = _checked(measure.finish(self.model, scores[name]), measure)
        made = self.generating
        made = made if made is None or prefix is None else made.with_prefix(prefix)
        texts = None if made is None or made.last is None else made.last.texts
        return Measured(scores, {m.name: (taken[m.name] or m).weights for m in self.measures}, texts)

    def _key(self, condition: Condition) -> str:
        what = "plain" if condition.edit is None else digest_of(condition.edit)
        whole = json.dumps([self._same, what, condition.prefix])
        name = "".join(c if c.isalnum() else "-" for c in condition.name.lower())[:40].strip("-")
        return f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"


def _checked(scores: np.ndarray, measure: Behaviour) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(measure),):
        raise ValueError(f"{measure.name!r} gave scores of shape {scores.shape} for {len(measure)} items")
    return scores


def digest_of(edit: Edit) -> str:
    """16 hex digits that change with anything an edit does.

    Raises:
        TypeError: an edit that is more than numbers (a function, an SAE's feature), so that two cannot be told apart.
    """
    digest = hashlib.sha256(json.dumps(edit.describe(), default=str, sort_keys=True).encode())
    if isinstance(edit, ActivationEdit):
        _feed(digest, edit, [edit.changes, edit.where])
    elif isinstance(edit, WeightEdit):
        _feed(digest, edit, [edit.parts, edit.unties, edit.config])
    else:
        raise TypeError(f"edits of kind {type(edit).__name__} cannot be told apart: evaluate without out=")
    return digest.hexdigest()[:16]


def _feed(digest: Any, edit: Edit, value: object) -> None:
    if isinstance(value, Tensor):
        whole = value.detach().cpu().contiguous()
        digest.update(f"{whole.dtype}{tuple(whole.shape)}".encode())
        digest.update(whole.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif is_dataclass(value) and not isinstance(value, type):
        digest.update(type(value).__name__.encode())
        _feed(digest, edit, {field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, Mapping):
        for key, one in value.items():
            digest.update(f"{key}:".encode())
            _feed(digest, edit, one)
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}[".encode())
        for one in value:
            _feed(digest, edit, one)
    elif value is None or isinstance(value, str | int | float):
        digest.update(f"{value!r};".encode())
    else:
        raise TypeError(
            f"{edit.name!r} is more than numbers, so that two such edits cannot be told apart: evaluate without out="
        )


def _write(path: Path, measured: Measured, name: str) -> None:
    document = {
        "format": _FORMAT,
        "condition": name,
        "scores": with_nulls(measured.scores),
        "weights": with_nulls(measured.weights),
        "texts": measured.texts,
    }
    write_whole(path, json.dumps(document, allow_nan=False) + "\n")


def _read(path: Path) -> Measured | None:
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise ValueError("no scores of a condition")
        scores, weights = (
            {key: np.array(with_nans(values), np.float64) for key, values in document[part].items()}
            for part in ("scores", "weights")
        )
        texts = document["texts"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and the condition is measured again") from error
    return Measured(scores, weights, None if texts is None else tuple(texts))
