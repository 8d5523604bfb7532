"""The digest of an outcome, by which a replay is held to what happened the first time.

XXH3-64, seed 0, over the canonical bytes of the observation, then the reward as a little-endian double, then one
byte of flags: bit 0 terminated, bit 1 truncated. It guards against divergence, not against forgery.
"""

from __future__ import annotations

import struct

from xxhash import xxh3_64_intdigest

__all__ = ["outcome_digest", "suffix"]

_pack = struct.Struct("<dB").pack


def outcome_digest(observation: bytes, reward: float, terminated: bool, truncated: bool) -> int:
    """The digest of one outcome, 0 to 2**64 - 1. ``observation`` is what ``values.encode`` gave (for an episode of
    several agents, the canonical bytes of ``AgentOutcomes``)."""
    # Packing takes less time than finding a packed suffix in a dict.
    return xxh3_64_intdigest(observation + _pack(reward, (1 if terminated else 0) | (2 if truncated else 0)))


def suffix(reward: float, flags: int) -> bytes:
    """The nine bytes that follow the observation in what is digested; ``flags`` as in the digest, 0 to 3."""
    return _pack(reward, flags)
