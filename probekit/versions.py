"""Which versions made a result: the part of a manifest that says so."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import probekit


def versions_of(*packages: str) -> dict[str, str]:
    """Python's, probekit's, and those of the packages that are installed, in this order."""
    found = {"python": platform.python_version(), "probekit": probekit.__version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
