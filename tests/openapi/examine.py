"""Schemathesis, in process: does an application do what its OpenAPI says, and nothing else?

Checked of every answer: no 5xx, a documented status and content type, a body and headers as described; requests that
fit are accepted, requests that do not are refused; methods that are not described are refused with a true `Allow`; no
route answers without a valid key. Every request, and so every finding, follows from the seed.
"""

import contextlib
import json
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import schemathesis
from schemathesis.config import GenerationConfig, SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import events, from_schema
from schemathesis.hooks import unregister

from .explained import EXPLAINED, Answer
from .worlds import EXISTING, World

_ACCEPTING = ["2xx", "3xx", "401", "403", "404", "409", "423", "429"]


@dataclass
class Findings:
    """What came of an examination."""

    requests: int = 0
    operations: Counter[str] = field(default_factory=Counter[str])
    """Requests by operation."""
    statuses: Counter[int] = field(default_factory=Counter[int])
    explained: Counter[str] = field(default_factory=Counter[str])
    """How often each exception that is explained occurred, by its name."""
    unexplained: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """By operation and check."""

    def render(self) -> str:
        """For a person."""
        lines = [f"{self.requests} requests to {len(self.operations)} operations"]
        lines += [f"  {count:6} answers {status}" for status, count in sorted(self.statuses.items())]
        lines += [f"  {count:6} explained: {name}" for name, count in self.explained.most_common()]
        for name, found in self.unexplained.items():
            lines.append(f"\nUNEXPLAINED, {len(found)} times: {name}\n{found[0]}")
        return "\n".join(lines)

    def add(self, name: str, finding: str) -> None:
        """Something that nobody has explained."""
        self.unexplained.setdefault(name, []).append(finding)


def examine(
    world: World, *, seed: int, examples: int, only: str = "", coverage: bool = True, seconds: int | None = None
) -> Findings:
    """Examine an application. `examples`: random ones per operation; `only`: paths, as a regular expression."""
    config = SchemathesisConfig(seed=seed, max_time=seconds)
    project = config.projects.default
    project.headers = dict(world.headers)
    project.continue_on_failure = True
    project.generation = GenerationConfig(max_examples=examples, no_shrink=True, database="none")
    project.phases.stateful.enabled = False
    project.phases.coverage.enabled = coverage
    project.checks.positive_data_acceptance.expected_statuses = _ACCEPTING
    described = schemathesis.openapi.from_asgi("/openapi.json", world.app, config=config, headers=dict(world.headers))
    schema = described.exclude(path_regex=world.excluded).include(path_regex=only or ".")

    findings = Findings()
    before = world.app.requests
    with _aimed(world):
        for event in from_schema(schema).execute():
            _take(event, findings)
    findings.requests = world.app.requests - before
    return findings


def _take(event: Any, findings: Findings) -> None:
    match event:
        case events.ScenarioFinished():
            findings.operations[event.recorder.label] += len(event.recorder.interactions)
            for answer in _answers(event.recorder, findings):
                _judge(answer, findings)
        case events.NonFatalError():
            findings.add("the examination itself", repr(event.value))
        case events.FatalError():
            findings.add("the examination itself", repr(event.exception))
        case _:
            pass


@contextlib.contextmanager
def _aimed(world: World) -> Generator[None]:
    def before_call(context: Any, case: Any, kwargs: Any) -> None:  # the names are Schemathesis's
        _aim(world, case)

    schemathesis.hook(before_call)
    try:
        yield
    finally:
        unregister(before_call)


def _aim(world: World, case: Any) -> None:
    """Let most requests hit a type, an entity and an activity that exist, unless the path is what is wrong."""
    given = case.path_parameters
    if case.path.endswith("/result") and not (case.meta and case.meta.is_negative_at(ParameterLocation.QUERY)):
        case.query = {**(case.query or {}), "timeout": "0"}  # runs that wait would be waited for
    if not given or (case.meta is not None and case.meta.is_negative_at(ParameterLocation.PATH)):
        return
    chance = zlib.crc32(f"{case.method} {case.path} {given!r} {case.query!r} {case.body!r}".encode(errors="replace"))
    if "type" in given and chance % 8:
        given["type"] = world.type_name
    if "key" in given and chance % 3:
        given["key"] = quote(EXISTING[chance % len(EXISTING)], safe="")
    if "token" in given and chance % 2 and world.tokens:
        given["token"] = world.tokens[chance % len(world.tokens)]


def _answers(recorder: Any, findings: Findings) -> Iterator[Answer]:
    for case_id, interaction in recorder.interactions.items():
        if interaction.response is not None:
            findings.statuses[interaction.response.status_code] += 1
        for check in recorder.checks.get(case_id, ()):
            if check.failure_info is not None:
                failure = check.failure_info.failure
                yield Answer(
                    operation=recorder.label,
                    check=check.name,
                    message=f"{failure.title}: {failure.message}",
                    case=recorder.cases[case_id].value,
                    request=check.failure_info.code_sample,
                    status=interaction.response.status_code if interaction.response is not None else 0,
                    problem=_json(interaction.response.content if interaction.response is not None else b""),
                )


def _json(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _judge(answer: Answer, findings: Findings) -> None:
    for explained in EXPLAINED:
        if explained.covers(answer):
            findings.explained[explained.name] += 1
            return
    findings.add(
        f"{answer.operation}: {answer.check}",
        f"  {answer.message[:600]}\n  {answer.request[:600]}\n"
        f"  {answer.status} {json.dumps(answer.problem, ensure_ascii=False)[:600]}",
    )
