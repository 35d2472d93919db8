"""One running demo for all tests of a module."""

from collections.abc import Iterator

import pytest

from .demo import Demo


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with Demo.in_temporary_directory(failure_rate=0.2) as running:
        yield running
