"""Models: loading them, the names of what can be read inside them, and running them as far as needed."""

from probekit.models.loading import SHIPPED, load_model
from probekit.models.model import Model
from probekit.models.sites import Site

__all__ = ["SHIPPED", "Model", "Site", "load_model"]
