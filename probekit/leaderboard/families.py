"""Families of probes that a board compares: linear ones at every site, others at one, and what the words alone tell."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any

import numpy as np
import torch

from probekit.leaderboard.tasks import Task
from probekit.probes import ElasticNetProbe, KernelRidgeProbe, KSparseProbe, MLPProbe
from probekit.probes.estimator import Estimator
from probekit.probes.grid import FAMILIES as LINEAR

WORDS = "words"
"""The family that reads the texts and not the model."""
DEFAULT = ("difference_in_means", "lda", "ridge", "logistic", WORDS)
GUIDE = "logistic"
"""The family whose scores on other tasks say at which site a task is read where no site may be chosen on the task itself."""
OTHERS: dict[str, Callable[[], Estimator]] = {
    "elastic_net": ElasticNetProbe,
    "k_sparse": KSparseProbe,
    "mlp": MLPProbe,
    "kernel_ridge": KernelRidgeProbe,
}
"""Families that are read at the shared site only, each as it is made without arguments."""
NAMES = (*LINEAR, *OTHERS, WORDS)

_PACKAGES = {"builtins", "numpy", "probekit", "scipy", "sklearn", "torch", *sys.stdlib_module_names} - {"__main__"}

Family = str | Estimator
"""The name of a linear family, `"words"`, or an estimator."""
Families = Sequence[str] | Mapping[str, Family]


def named(given: Families) -> dict[str, Family]:
    """Families by their name on the board; the guide is always among them.

    Raises:
        TypeError: what is no estimator.
        ValueError: no such family, none at all, or one that goes by another's name.
    """
    asked: dict[str, Family] = dict(given) if isinstance(given, Mapping) else {name: name for name in given}
    if not asked:
        raise ValueError("families is empty: name one at least")
    found: dict[str, Family] = {} if GUIDE in asked else {GUIDE: GUIDE}
    for name, family in asked.items():
        if isinstance(family, str) and family not in NAMES:
            raise ValueError(
                f"there is no family {family!r}; there are {', '.join(NAMES)}, or give an estimator: {{{name!r}: MLPProbe(layers=2)}}"
            )
        if name in NAMES and family != name and type(family) is not OTHERS.get(name):
            raise ValueError(f"{name!r} is the name of another family: call yours something else")
        if not isinstance(family, str) and not hasattr(family, "fit"):
            raise TypeError(f"family {name!r} is {type(family).__name__}, which has no fit")
        if not isinstance(family, str) and not hasattr(family, "get_params"):
            raise TypeError(
                f"family {name!r} is {type(family).__name__}, which has no get_params: derive it from probekit.probes.Estimator"
            )
        found[name] = OTHERS[family]() if isinstance(family, str) and family in OTHERS else family
    return found


def linear(families: Mapping[str, Family], task: Task) -> list[str]:
    """Linear families that read the task's kind; of numbers, ridge also takes the guide's place."""
    found = [name for name, family in families.items() if isinstance(family, str) and family != WORDS]
    if task.kind == "continuous":
        return [name for name in found if name == "ridge"] or ["ridge"]
    return found


def reads(family: Family, task: Task) -> bool:
    """Whether a family can be asked for a task's kind."""
    if task.kind != "continuous":
        return True
    return family in ("ridge", WORDS) or (
        not isinstance(family, str) and getattr(family, "kind", None) in ("auto", "continuous")
    )


def key(name: str, family: Family) -> str:
    """What a family's figures are kept under: another family under the same name, other parameters, or other code of one's own have other
    ones. (Code of packages is told apart by `files.FORMAT` at most.)"""
    if isinstance(family, str):
        return name if name == family else f"{name}: {family}"
    given = {parameter: _told(value) for parameter, value in sorted(family.get_params().items())}
    return f"{name}: {_called(type(family))} {given}"


def _called(thing: Any) -> str:
    """The name of a class or function, and of one that is no package's a digest of its source and of that of what it derives from."""
    package = (thing.__module__ or "").split(".")[0]
    if package in _PACKAGES:
        return str(thing.__qualname__)
    digest = hashlib.sha256()
    for one in getattr(thing, "__mro__", (thing,)):
        if (one.__module__ or "").split(".")[0] not in _PACKAGES:
            digest.update(_source(one).encode())
    return f"{thing.__module__}.{thing.__qualname__} {digest.hexdigest()[:16]}"


def _source(thing: Any) -> str:
    if not isinstance(thing, type):  # the line that a lambda stands in may hold another
        return _of_code(thing.__code__) if hasattr(thing, "__code__") else ""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # typed into an interpreter
        return repr([(name, _source(of) or repr(of)) for name, of in vars(thing).items() if _is_plain(of)])


def _of_code(code: CodeType) -> str:
    """The same in every process."""
    constants = [_of_code(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    told = [sorted(map(repr, one)) if isinstance(one, frozenset) else one for one in constants]
    return repr((code.co_code, code.co_names, code.co_varnames, told))


def _is_plain(of: object) -> bool:
    return hasattr(of, "__code__") or isinstance(of, str | int | float | tuple)


def _told(value: object) -> object:
    """A parameter in words that are the same in every process, and other for another value."""
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.ascontiguousarray(value)
        return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    if isinstance(value, Estimator):
        return key(type(value).__qualname__, value)
    return _called(value) if callable(value) and hasattr(value, "__qualname__") else value
