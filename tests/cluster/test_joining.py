"""B83: a Ray cluster that is not there, or is of other versions, is told as such; Ray itself is played."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.utils import check_version_info  # the text that is recognised is Ray's own

from perdure.api.exits import Exit
from perdure.api.failures import failure_of
from perdure.cluster import ray_runtime
from perdure.entities.errors import StartRefused, Unavailable


def ray_that(error: Exception | None, **cluster: str) -> Any:
    def init(**_: Any) -> None:
        if error is not None:
            raise error
        check_version_info(cluster, "node 10.0.0.7")

    return SimpleNamespace(init=init)


@pytest.mark.parametrize(
    "cluster",
    [{"python_version": "3.99.1", "ray_version": "2.60.0"}, {"python_version": "3.11.2", "ray_version": "2.1.99"}],
    ids=["Python", "Ray"],
)
def test_other_versions_are_both_named(monkeypatch: pytest.MonkeyPatch, cluster: dict[str, str]) -> None:
    monkeypatch.setattr(ray_runtime, "ray", ray_that(None, **cluster))
    with pytest.raises(StartRefused, match=r"'10\.0\.0\.1:6379' runs another Python or Ray.*Use the same") as caught:
        ray_runtime.join("10.0.0.1:6379")
    text = caught.value.message
    assert cluster["python_version"] in text
    assert cluster["ray_version"] in text
    assert text.count("Python: ") == 2, "theirs and ours"
    assert "\n" not in text
    failure = failure_of(caught.value)
    assert (failure.code, failure.exit_code) == ("start_refused", Exit.CONFLICT)


@pytest.mark.parametrize(
    "error", [ConnectionError("Could not find any running Ray instance."), RuntimeError("GCS timed out")]
)
def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(ray_runtime, "ray", ray_that(error))
    with pytest.raises(Unavailable, match=r"no Ray cluster could be joined at 'auto'.*ray start --head") as caught:
        ray_runtime.join("auto")
    assert str(error) in caught.value.message
    failure = failure_of(caught.value)
    assert (failure.code, failure.exit_code) == ("unavailable", Exit.UNREACHABLE)
