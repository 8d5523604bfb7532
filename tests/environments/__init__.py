"""Environments that tests serve."""
