"""What is expected of an error."""

from __future__ import annotations

from typing import Any

import pytest

import envmesh
from tests.compliance.messages import Refused


class Wrong:
    """What is expected of an error: its class, status, reason, and words of its message."""

    def __init__(self, kind: type[envmesh.EnvmeshError], code: str, reason: str, *words: str):
        self.kind, self.code, self.reason, self.words = kind, code, reason, words

    async def holds(self, command: Any) -> envmesh.EnvmeshError:
        with pytest.raises(envmesh.EnvmeshError) as raised:
            await command
        error = raised.value
        assert type(error) is self.kind, repr(error)
        assert (error.code.name, error.reason) == (self.code, self.reason)
        for word in self.words:
            assert word in str(error)
        return error


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value
