"""How fast envmesh is, beside its peers, in one run on one machine: ``python -m benchmarks`` (see README.md)."""
