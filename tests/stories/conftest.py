"""Stories are told on virtual time: none may take longer than a second of this machine's."""

import time
from collections.abc import Iterator

import pytest

LIMIT_S = 1.0


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """By processor time, so that a busy machine is no failure."""
    began = time.process_time()
    yield
    took = time.process_time() - began
    assert took <= LIMIT_S, f"the story took {took:.2f} s of processor time; the limit is {LIMIT_S} s"
