"""Stories are told on virtual time: none may take longer than a second of this machine's."""

import time
from collections.abc import Iterator

import pytest

ONCE_S = 1.0
AT_EVERY_POINT_S = 3.0
"""The same story some forty times."""


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest) -> Iterator[None]:
    """By processor time, so that a busy machine is no failure."""
    limit_s = AT_EVERY_POINT_S if "at_every_point" in request.node.name else ONCE_S
    began = time.process_time()
    yield
    took_s = time.process_time() - began
    assert took_s <= limit_s, f"the story took {took_s:.2f} s of processor time; the limit is {limit_s} s"
