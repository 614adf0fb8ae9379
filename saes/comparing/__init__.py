"""SAE features held against linear probes."""
