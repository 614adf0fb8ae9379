"""Paired timings against what people use today; `make bench` writes the table in docs/benchmarks.md."""
