"""Adapters to the environments people already have, one package or module for each family."""
