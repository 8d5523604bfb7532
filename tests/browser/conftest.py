from pathlib import Path

import pytest

from tests.browser import chromium


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory):
    if chromium.MISSING:
        pytest.skip(chromium.MISSING)
    with chromium.browser(Path(tmp_path_factory.mktemp("profile"))) as running:
        yield running
