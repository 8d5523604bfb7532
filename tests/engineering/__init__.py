"""Tests of the repository itself: where code lies, what it may import, what it may be called."""
