"""Families of probes that a board compares: linear ones at every site, others at one, and what the words alone tell."""

from __future__ import annotations

import hashlib
import re
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

_NO_CODE = {
    "__dict__",
    "__weakref__",
    "__doc__",
    "__module__",
    "__qualname__",
    "__annotations__",
    "__abstractmethods__",
    "_abc_impl",
}
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
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
        return [name for name in found if families[name] == "ridge"] or ["ridge"]
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
    ones. What is not seen: functions of a module that the code calls, code of packages, and what is inside a package's estimator (steps of a
    pipeline); give such a family another name when they change."""
    if isinstance(family, str):
        return name if name == family else f"{name}: {family}"
    given = {parameter: _told(value) for parameter, value in sorted(family.get_params().items())}
    return f"{name}: {_called(type(family))} {given}"


def _called(thing: Any) -> str:
    """The name of a class or function, and of one that is no package's a digest of its code and of that of what it derives from."""
    if _of_package(thing):
        return str(thing.__qualname__)
    own = [one for one in getattr(thing, "__mro__", (thing,)) if not _of_package(one)]
    told = repr([_attributes(one) if isinstance(one, type) else _code(one) for one in own])
    return f"{thing.__module__}.{thing.__qualname__} {hashlib.sha256(_ADDRESS.sub('', told).encode()).hexdigest()[:16]}"


def _of_package(thing: Any) -> bool:
    return (getattr(thing, "__module__", None) or "builtins").split(".")[0] in _PACKAGES


def _attributes(class_: type) -> list[tuple[str, object]]:
    return [(name, _code(of)) for name, of in sorted(vars(class_).items()) if name not in _NO_CODE]


def _code(of: Any) -> object:
    """What a function or an attribute does, in words that are the same in every process."""
    for inner in ("__func__", "fget", "__wrapped__"):  # of static and class methods, properties, decorated functions
        of = getattr(of, inner, None) or of
    if not hasattr(of, "__code__"):
        return _told(of)
    held = zip(of.__code__.co_freevars, of.__closure__ or (), strict=True)
    around = [cell.cell_contents for name, cell in held if name != "__class__"]  # which is what `super()` needs
    given = [*(of.__defaults__ or ()), *sorted((of.__kwdefaults__ or {}).items()), *around]
    return _in_words(of.__code__), [getattr(one, "__qualname__", None) or _told(one) for one in given]


def _in_words(code: CodeType) -> object:
    constants = [_in_words(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    told = [sorted(map(repr, one)) if isinstance(one, frozenset) else one for one in constants]
    return code.co_code, code.co_names, code.co_varnames, told


def _told(value: object) -> object:
    """A parameter in words that are the same in every process, and other for another value."""
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.ascontiguousarray(value)
        return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    if isinstance(value, Estimator):
        return key(type(value).__qualname__, value)
    return _called(value) if callable(value) and hasattr(value, "__qualname__") else value
