"""What all tests share: a cache that is theirs alone, and properties that are not judged by the clock."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shotfit", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shotfit")  # a machine that does other work too is slow, and no property is wrong for it


ATTACK_SEED = "SHOTFIT_ATTACK_SEED"  # in the environment, which the workers of xdist inherit


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--attack-seed", help="what decides the attacks of tests/attacks; by default, 0")


def pytest_configure(config: pytest.Config) -> None:
    asked = config.getoption("--attack-seed")
    if asked or ATTACK_SEED not in os.environ:
        os.environ[ATTACK_SEED] = asked or "0"


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed of the attacks: {os.environ[ATTACK_SEED]} (--attack-seed repeats it)"


def pytest_collection_finish() -> None:
    """What was imported and collected stays: a collection of garbage, of which comparisons ask for many, passes it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOTFIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
