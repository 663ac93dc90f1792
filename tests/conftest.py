"""What all tests share: a cache that is theirs alone, and properties that are not judged by the clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shotfit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shotfit")  # a machine that does other work too is slow, and no property is wrong for it


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOTFIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
