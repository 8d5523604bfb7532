"""Seeded runs of the pure parts; a failure prints how to repeat it."""
