"""`python -m probekit.cli`."""

from probekit.cli import main

main()
