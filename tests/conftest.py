"""What all tests share: hypothesis profiles.

`HYPOTHESIS_PROFILE=thorough` searches ten times as long. In CI the examples are the same in every run, so that a
red build is the change's own doing; a failure prints the line that repeats it.
"""

import os

from hypothesis import HealthCheck, settings

# No deadline by the wall clock: on a busy machine it would measure the machine.
settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))
