"""What is read of a running model to see whether what a name says changes, beside what other names would say.

A name from labels says something that probes read; a name `before words like ...` something of the next token; and a name
`words like ...` or `text about ...` something of the text at hand, which later layers hold as they hold that word.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from saes.naming.names import Name
from saes.naming.templates import template_states
from saes.naming.vocabulary import SAID

if TYPE_CHECKING:
    from probekit.models import Model
    from probekit.probes import SweepResult

Read: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Logits `[row, vocabulary]` and activations `[row, d]` at a later site to `[row, 1 + others]`."""
OTHERS = 199
"""Other names that a name's effect is held against, at most."""
LEAST = 19
"""Fewer say nothing at a level of 0.05."""
Column: TypeAlias = tuple[str, str, str]
"""Label set, target and class."""


@dataclass(frozen=True)
class Readout:
    """Numbers that are high where what names say holds: first that of the name itself, then of others, on one scale.

    Attributes:
        what: What the name's own number is, in words, once divided by `unit`.
        read: From logits and later activations.
        later: The site whose activations are read; None where logits suffice.
        unit: Of the name's own number.
    """

    what: str
    read: Read
    later: str | None = None
    unit: float = 1.0


@dataclass(frozen=True)
class Readouts:
    """Readouts for names of features at one site of a model.

    Attributes:
        model: Which.
        site: Of the SAE.
        probes: A sweep over the labels of names, at sites after this one; needed for names from labels.
        words: That others might be called.
        seed: Of the conjunctions of labels that others might be called.
    """

    model: Model
    site: str
    probes: SweepResult | None
    words: tuple[str, ...]
    seed: int = 0
    _states: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def of(self, name: Name) -> Readout | None:
        """What tells whether a name holds; None where nothing does: no later site, a word that cannot be read, a sentence."""
        if name.source == "labels":
            return None if self.probes is None else self._of_labels(name, self.probes)
        if name.source != "vocabulary" or self.model.tokenizer is None:
            return None
        for place, said in SAID.items():
            before, after = said.split("{}")
            if name.text.startswith(before) and name.text.endswith(after):
                word = name.text[len(before) : len(name.text) - len(after)].strip()
                if not word:
                    return None
                return self._of_next(word) if place == "next" else self._of_text(word)
        return None

    @cached_property
    def _after(self) -> list[str]:
        order = list(self.model.stream_sites)
        return order[order.index(self.site) + 1 :] if self.site in order else []

    def _others(self, word: str) -> list[str]:
        return [other for other in self.words if other.lower() != word.lower()]

    def _of_text(self, word: str) -> Readout | None:
        """How far the activation is on the way from the mean word (0) to this one (1), half of the later layers further on."""
        if not self._after:
            return None
        later = self._after[(len(self._after) - 1) // 2]
        asked = [word, *self._others(word)]
        new = [one for one in asked if one not in self._states]
        if new:
            self._states.update(zip(new, template_states(self.model, new, later), strict=True))
        states = np.stack([self._states[one] for one in asked]).astype(np.float64)
        mean = states[1:].mean(0) if len(asked) > 1 else np.zeros(states.shape[1])
        ways = states - mean
        lengths = np.linalg.norm(ways, axis=1)
        if not np.isfinite(lengths).all() or lengths[0] == 0:
            return None
        units = torch.from_numpy(ways / np.maximum(lengths, 1e-12)[:, None]).float()
        start = torch.from_numpy(mean).float()
        what = f"place between the mean word (0) and “{word}” (1) at {later}"
        return Readout(what, lambda logits, read: (read - start) @ units.T, later, float(lengths[0]))

    def _of_next(self, word: str) -> Readout | None:
        tokens = self._first_tokens(word)
        if not tokens:
            return None
        each = [tokens, *filter(None, map(self._first_tokens, self._others(word)))]

        def log_odds(logits: Tensor, read: Tensor) -> Tensor:
            log_proba = torch.log_softmax(logits, -1)
            sums = torch.stack([log_proba[:, one].logsumexp(1) for one in each], 1)
            return sums - torch.log1p(-sums.exp().clamp(max=1 - 1e-7))

        return Readout("log odds that the next token begins the word", log_odds)

    def _first_tokens(self, word: str) -> list[int]:
        tokenizer = self.model.tokenizer
        forms = {form for w in (word, word.capitalize()) for form in (w, f" {w}")}
        first = {ids[0] for form in forms if (ids := tokenizer.encode(form, add_special_tokens=False))}
        return sorted(one for one in first if tokenizer.decode([one]).strip())

    def _of_labels(self, name: Name, probes: SweepResult) -> Readout | None:
        """Log odds of all labels of a name, by the probes at the later site that reads them best on validation.

        The others are as many labels of other targets, of the same label sets, drawn at random.
        """
        after = [site for site in probes.sites if site in self._after]
        labels = asked(name.text, probes)
        if not after or not labels:
            return None
        metric = probes.headline(labels[0][0])
        by_site = dict(zip(probes.sites, probes.validation[labels[0][0]][metric], strict=True))
        later = max(after, key=lambda s: np.nan_to_num(by_site[s], nan=-np.inf))
        each = [labels, *self._conjunctions(labels, probes)]

        def log_odds(logits: Tensor, read: Tensor) -> Tensor:
            known = {one: probes.probes[one][later].log_proba(read) for one in {c[0] for many in each for c in many}}

            def of(column: Column) -> Tensor:
                label_set, target, class_ = column
                stack = probes.probes[label_set][later]
                return known[label_set][:, list(stack.targets).index(target), list(stack.classes).index(class_)]

            total = torch.stack([torch.stack([of(column) for column in many]).sum(0) for many in each], 1)
            return total - torch.log1p(-total.exp().clamp(max=1 - 1e-7))

        return Readout(f"log odds by the probes at {later}", log_odds, later)

    def _conjunctions(self, labels: Sequence[Column], probes: SweepResult) -> list[list[Column]]:
        sets, taken = {column[0] for column in labels}, {column[:2] for column in labels}
        by_target: dict[tuple[str, str], list[Column]] = {}
        for summary in probes.label_sets:
            for target, class_ in itertools.product(summary.targets, summary.classes):
                if summary.name in sets and (summary.name, target) not in taken:
                    by_target.setdefault((summary.name, target), []).append((summary.name, target, class_))
        if len(by_target) < len(labels):
            return []
        rng, targets = np.random.default_rng([self.seed, 0x0E5]), list(by_target)
        found: set[frozenset[Column]] = set()
        for _ in range(4 * OTHERS):
            some = [by_target[targets[i]] for i in rng.permutation(len(targets))[: len(labels)]]
            found.add(frozenset(classes[int(rng.integers(len(classes)))] for classes in some))
        every = sorted(map(sorted, found))
        return [every[i] for i in np.sort(rng.permutation(len(every))[:OTHERS])]


def asked(text: str, probes: SweepResult) -> list[Column]:
    """Label set, target and class of each part of `D3 is mine and E4 is empty`; none where the sweep lacks one."""
    known: dict[str, Column] = {}
    for summary in probes.label_sets:
        for target, class_ in itertools.product(summary.targets, summary.classes):
            known.setdefault(f"{target} is {class_}", (summary.name, target, class_))
            known[f"{summary.name}: {target} is {class_}"] = (summary.name, target, class_)

    def parts(rest: str) -> list[Column]:
        """Of the rest of the text; a class may have " and " in its name, so it is not split there."""
        if rest in known:
            return [known[rest]]
        starts = (said for said in known if rest.startswith(f"{said} and "))
        tails = ((known[said], parts(rest[len(said) + 5 :])) for said in starts)
        return next(([head, *tail] for head, tail in tails if tail), [])

    return parts(text)
