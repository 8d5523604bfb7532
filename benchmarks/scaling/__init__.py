"""A simulation of scaling policies on traces of demand: ours, and those that others use."""
