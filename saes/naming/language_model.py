"""Names from a language model: explanations of contrasting contexts, held against detection and fuzzing on other texts.

Sources: Bills et al. 2023, "Language models can explain neurons in language models" (explain, then predict from the
explanation alone); Paulo et al. 2024, "Automatically interpreting millions of features in large language models" (arXiv
2410.13928; detection and fuzzing).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from saes.features import SparseFeatures
from saes.naming.contexts import Contexts
from saes.naming.endpoint import Endpoint, NoAnswer, checked_url
from saes.naming.explaining import Drawn, Explained, control, explained
from saes.naming.judging import Claim
from saes.naming.proposals import Proposal
from saes.naming.windows import LEAST, FeatureWindows
from saes.scoring.feature_scores import Half

_MAX_TOKENS = 2000
_T = TypeVar("_T")


@dataclass(frozen=True)
class LanguageModel:
    """A language model that explains features, behind any endpoint that speaks OpenAI's chat completions.

    A feature costs about 40 questions (one for two explanations; for each of them detection on the half they were made from,
    then detection and fuzzing on the other; and a control). Every answer is kept in `cache` at once: the same call goes on
    where it was stopped, asks nothing twice, and gives the same names.

    Attributes:
        base_url: Where the server is, such as `http://localhost:8000/v1`.
        model: The model's name there.
        cache: Folder of the answers; different models may share one. The texts that were shown are in it; no key is.
        api_key_env: Environment variable that holds the key. Left out, no key is sent, as most local servers need none.
        features: Which to ask about; left out, those that fire at the most rows.
        most: Of these, at most so many that fire in enough texts and are silent in enough.
        windows: Texts in which a feature fires that each name is judged on, and as many silent ones.
        parallel: Features asked about at a time.
        timeout: Seconds for one answer.
        options: Further fields of every request; None leaves one out (`{"max_tokens": None, "max_completion_tokens": 2000,
            "temperature": None}` for servers that refuse ours).

    Raises:
        ValueError: no address, no model, no features, or no sensible number.
    """

    base_url: str
    model: str
    cache: str | Path
    api_key_env: str | None = None
    features: Sequence[int] | None = None
    most: int = 50
    windows: int = 20
    parallel: int = 4
    timeout: float = 60.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_url(self.base_url)
        if not self.model.strip():
            raise ValueError("model is empty: give the name that the server knows the model by")
        if self.features is not None and not len(self.features):
            raise ValueError("features is empty: give some, or leave it out for those that fire at the most rows")
        for name, least in (("most", 1), ("windows", 2 * LEAST), ("parallel", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give {least} or more")
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout={self.timeout}: give seconds above 0")

    def propose(
        self,
        choose: Half,
        report: Half,
        features: SparseFeatures,
        contexts: Contexts,
        neighbours: np.ndarray,
        *,
        seed: int = 0,
    ) -> tuple[list[Proposal], list[str]]:
        """Up to two explanations a feature, with what the model makes of them on the rows that judge.

        Args:
            choose, report: The halves.
            features: All rows.
            contexts: Their texts.
            neighbours: `[feature, n]` nearest features.
            seed: Of the windows drawn; sent with each question.

        Returns:
            Proposals, and notes on features that were not asked about or got no answer.

        Raises:
            ValueError: a feature that does not exist; see `Endpoint.ask`, too.
            ConnectionError: no server, and no answer is kept.
        """
        made, notes = self._windows(choose, report, features, contexts, neighbours, seed)
        options = {"temperature": 0, "seed": seed, "max_tokens": _MAX_TOKENS, **self.options}
        endpoint = Endpoint(
            self.base_url, self.model, self.cache, api_key_env=self.api_key_env, timeout=self.timeout, options=options
        )
        try:
            return self._asked(endpoint, made, report, notes, seed), notes
        finally:
            endpoint.close()

    def _windows(
        self,
        choose: Half,
        report: Half,
        features: SparseFeatures,
        contexts: Contexts,
        neighbours: np.ndarray,
        seed: int,
    ) -> tuple[list[Drawn], list[str]]:
        firing = np.diff(choose.features.indptr)
        if self.features is None:
            tried = np.argsort(-firing, kind="stable")[: np.count_nonzero(firing)].tolist()
        else:
            tried = list(dict.fromkeys(int(one) for one in self.features))
            wrong = [one for one in tried if not 0 <= one < features.width]
            if wrong:
                raise ValueError(f"features: {wrong[0]} is none of an SAE with {features.width:,}")
        made: list[Drawn] = []
        few = 0
        for feature in tried:
            if self.features is None and len(made) == self.most:
                break
            windows = FeatureWindows(feature, choose, report, features, contexts, neighbours, seed)
            drawn = windows.drawn(self.windows)
            if drawn is None:
                few += 1
            else:
                made.append(Drawn(feature, windows.threshold, *drawn))
        note = f"{self.model} was not asked about {few:,} features that fire, or are silent for a whole window, in too few sequences"
        return made, [note] if few else []

    def _asked(
        self, endpoint: Endpoint, made: Sequence[Drawn], report: Half, notes: list[str], seed: int
    ) -> list[Proposal]:
        failures: Counter[str] = Counter()
        no_control: Counter[str] = Counter()
        found = self._at_a_time(endpoint, [partial(explained, endpoint, one, seed) for one in made], failures)
        named = {drawn.feature: one for drawn, one in zip(made, found, strict=True) if one}
        best = {feature: max(one, key=lambda each: each.merit).text for feature, one in named.items()}
        controls = self._at_a_time(
            endpoint, [partial(control, endpoint, made, i, best) for i in range(len(made))], no_control
        )
        where, unread = f"{self.model} at {endpoint.url}", sum(one == [] for one in found)
        if failures:
            notes.append(f"{where} gave no name for {_counted(failures, len(made))}")
        if no_control:
            notes.append(f"{where} gave no control for {_counted(no_control, len(made))}")
        if unread:
            notes.append(f"{where} explained {unread:,} of {len(made):,} features in a way that cannot be read")
        return [
            proposal
            for drawn, shuffled in zip(made, controls, strict=True)
            for proposal in _proposals(drawn, named.get(drawn.feature, []), report, shuffled)
        ]

    def _at_a_time(
        self, endpoint: Endpoint, tasks: Sequence[Callable[[], _T]], failures: Counter[str]
    ) -> list[_T | None]:
        """What tasks return, in order; None where the server gave no answer."""
        from rich.console import Console
        from rich.progress import Progress

        done: list[_T | None] = [None] * len(tasks)
        gone: Exception | None = None
        console = Console(stderr=True)
        with (
            ThreadPoolExecutor(self.parallel) as pool,
            Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
        ):
            running = {pool.submit(task): i for i, task in enumerate(tasks)}
            try:
                for one in bar.track(as_completed(running), len(tasks), description=self.model):
                    try:
                        done[running[one]] = one.result()
                    except NoAnswer as error:
                        failures[str(error)] += 1
                    except (ConnectionError, PermissionError, ValueError) as error:
                        failures[str(error)] += 1
                        gone = gone or error
            except BaseException:
                endpoint.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if gone is not None and all(one is None for one in done):
            raise gone  # nothing was answered, neither now nor before
        return done


def _counted(failures: Counter[str], asked: int) -> str:
    reasons = "; ".join(f"{reason} ({count:,})" for reason, count in failures.most_common(3))
    return (
        f"{failures.total():,} of {asked:,} features: {reasons}. The same call goes on from the answers that are kept"
    )


def _proposals(drawn: Drawn, found: Sequence[Explained], report: Half, shuffled: float | None) -> list[Proposal]:
    """Claims about the rows that windows stand for; the rival of the best explanation is the next, of others the best."""
    rows = np.searchsorted(report.rows, [window.row for window in drawn.to_judge])
    ranked = sorted(found, key=lambda one: -one.merit)
    proposals = []
    for i, one in enumerate(ranked):
        rival = ranked[0] if i else ranked[1] if len(ranked) > 1 else None
        proposals.append(
            Proposal(
                claim=Claim(drawn.feature, drawn.threshold, _covers(rows, one.said, len(report.rows)), sample=True),
                text=one.text,
                source="language_model",
                merit=one.merit,
                rival=None if rival is None else rival.text,
                rival_merit=None if rival is None else rival.merit,
                measured={
                    "fuzzing": None if math.isnan(one.fuzzing) else one.fuzzing,
                    "shuffled": math.nan if shuffled is None else shuffled,
                },
            )
        )
    return proposals


def _covers(rows: np.ndarray, said: np.ndarray, count: int) -> Callable[[], tuple[np.ndarray, np.ndarray | None]]:
    """What was said at the rows asked about, and that nothing is known of the others."""

    def covered() -> tuple[np.ndarray, np.ndarray | None]:
        everywhere, known = np.zeros(count, bool), np.zeros(count, bool)
        everywhere[rows], known[rows] = said, True
        return everywhere, known

    return covered
