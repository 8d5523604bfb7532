"""Benchmarks that anybody can repeat, with the peers side by side: `make bench`."""
