"""A probe in use: texts and generations scored token by token, with thresholds that keep a rate of false alarms.

monitor = pk.monitoring.make(model, texts, labels, false_alarms=0.05)     # or fit(probe, model, ...) with a probe you have
print(monitor.summary())
monitor.score(model, ["..."])
with monitor.watch(model, stop=True) as watched:
    model.hf.generate(**inputs)
"""

from __future__ import annotations

from probekit.monitoring.controls import Control
from probekit.monitoring.cost import Cost
from probekit.monitoring.evidence import Evidence
from probekit.monitoring.fitting import fit
from probekit.monitoring.following import Follower
from probekit.monitoring.making import make
from probekit.monitoring.monitor import Monitor
from probekit.monitoring.scored import Scored, ScoredToken
from probekit.monitoring.watching import Event, Watch

__all__ = [
    "Control",
    "Cost",
    "Event",
    "Evidence",
    "Follower",
    "Monitor",
    "Scored",
    "ScoredToken",
    "Watch",
    "fit",
    "make",
]
