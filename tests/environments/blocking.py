"""Environments that block, until another episode lets them go on; they meet in this module's globals."""

import threading

GATE = threading.Event()
CLOSED = threading.Event()
MEETING: dict[str, threading.Barrier] = {}
MEETING_LOCK = threading.Lock()


def block(action):
    """Do what the action says; returns the observation."""
    match action.split():
        case ["meet", count]:
            with MEETING_LOCK:
                barrier = MEETING.setdefault(count, threading.Barrier(int(count)))
            barrier.wait(timeout=20)
        case ["wait", "for", "the", "gate"]:
            GATE.wait(timeout=60)
        case ["open", "the", "gate"]:
            GATE.set()
        case ["wait", "for", "the", "closed"]:
            CLOSED.wait(timeout=20)
    return action


class Blocking:
    """Blocks its thread."""

    def reset(self, *, seed=None, options=None):
        """Begin, with the gate closed."""
        GATE.clear()
        CLOSED.clear()
        return "", {}

    def step(self, action):
        """Do what the action says."""
        return block(action), 0.0, False, False, {}

    def close(self):
        """Tell whoever waits for it."""
        CLOSED.set()


class BlockingLater(Blocking):
    """Blocks its event loop."""

    async def step(self, action):
        """Do what the action says."""
        return block(action), 0.0, False, False, {}
