"""The digest of an outcome, by which a replay is held to what happened the first time.

XXH3-64, seed 0, over the canonical bytes of the observation, then the reward as a little-endian double, then one
byte of flags: bit 0 terminated, bit 1 truncated. It guards against divergence, not against forgery.
"""

from __future__ import annotations

import struct

from xxhash import xxh3_64, xxh3_64_intdigest

__all__ = ["LONG_BYTES", "digest_of", "outcome_digest", "suffix"]

LONG_BYTES = 64 * 1024
"""From here on a copy of an observation takes longer than a hash object."""

suffix = struct.Struct("<dB").pack
"""The nine bytes that follow the observation in what is digested: of a reward, and the flags as there, 0 to 3."""


def digest_of(observation: bytes, end: bytes) -> int:
    """The digest of an observation and its ``suffix``."""
    if len(observation) < LONG_BYTES:
        return xxh3_64_intdigest(observation + end)
    state = xxh3_64(observation)
    state.update(end)
    return state.intdigest()


def outcome_digest(observation: bytes, reward: float, terminated: bool, truncated: bool) -> int:
    """The digest of one outcome, 0 to 2**64 - 1. ``observation`` is what ``values.encode`` gave (for an episode of
    several agents, the canonical bytes of ``AgentOutcomes``)."""
    # Packing takes less time than finding a packed one in a dict.
    return digest_of(observation, suffix(reward, (1 if terminated else 0) | (2 if truncated else 0)))
