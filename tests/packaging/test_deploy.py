"""What can be known of deploy/ without Docker and Kubernetes: commands, options, variables, routes, names, versions."""

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import ray.scripts.scripts
import typer.main
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pydantic import SecretStr

from perdure.api import Settings, create_app
from perdure.api.cli import app as perdure
from perdure.api.serve import END_S, check_binding
from perdure.api.target import load_target
from perdure.entities.encryption import VARIABLES as ENCRYPTION_VARIABLES
from perdure.entities.logs import VARIABLES as LOG_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE_TEXT, KUBERAY_TEXT = (DEPLOY / "compose.yaml").read_text(), (DEPLOY / "kuberay.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SECRET, RAY_CLUSTER, GATEWAY, SERVICE = (dict[str, Any](document) for document in yaml.safe_load_all(KUBERAY_TEXT))
FILES = {"Dockerfile": DOCKERFILE, "compose.yaml": COMPOSE_TEXT, "kuberay.yaml": KUBERAY_TEXT}

PROGRAMS: dict[str, click.Command] = {
    "perdure": typer.main.get_command(perdure),  # type: ignore[dict-item]  # typer may bring a click of its own
    "ray": ray.scripts.scripts.cli,
}


def nodes(tree: object) -> Iterator[dict[str, Any]]:
    """Every mapping of a document."""
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from nodes(child)


def pods() -> list[dict[str, Any]]:
    return [node for document in (RAY_CLUSTER, GATEWAY) for node in nodes(document) if "containers" in node]


def containers() -> list[dict[str, Any]]:
    return [container for pod in pods() for container in pod["containers"]]


def commands(text: str) -> Iterator[list[str]]:
    """What a file tells `perdure` and `ray` to do: in shell lines, in lists, in comments for people."""
    for line in text.splitlines():
        if found := re.search(r'\[(?:CMD, )?"?((?:perdure|ray)"?, .+)\]', line):
            yield re.findall(r"[^\s,\"]+", found[1])
            continue
        for part in re.split(r"&&|;|\(|\)|&|: ", line.removeprefix("#")):
            words = re.sub(r"^(exec|until|do)\s+", "", part.strip()).split()
            if len(words) > 1 and words[0] in PROGRAMS:
                yield words


COMMANDS = {f"{name}: {' '.join(words)}": (name, words) for name, text in FILES.items() for words in commands(text)}


def test_the_commands_were_found() -> None:
    found = {(name, *words[:2]) for name, words in COMMANDS.values()}
    assert found == {
        ("Dockerfile", "perdure", "--help"),
        ("compose.yaml", "perdure", "db"),
        ("compose.yaml", "perdure", "up"),
        ("compose.yaml", "perdure", "serve"),
        ("compose.yaml", "ray", "start"),
        ("compose.yaml", "ray", "health-check"),
        ("kuberay.yaml", "perdure", "db"),
        ("kuberay.yaml", "perdure", "up"),
        ("kuberay.yaml", "perdure", "serve"),
        ("kuberay.yaml", "ray", "start"),
    }


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_exists_with_its_options(line: str) -> None:
    _, words = COMMANDS[line]
    command: Any = PROGRAMS[words[0]]
    rest = words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        command = command.commands[rest.pop(0)]
    if rest != ["--help"]:
        command.make_context(words[0], list(rest))  # parses; raises for what it does not know
    modules = [word for word in rest if word.startswith("examples.")]
    for module in modules:
        assert len(load_target(module).registry)
    assert bool(modules) == (words[1] in {"up", "serve"})


def test_versions_are_those_of_the_project() -> None:
    images = {node["image"] for tree in (COMPOSE, RAY_CLUSTER, GATEWAY) for node in nodes(tree) if "image" in node}
    assert images - {"postgres:17"} == {f"perdure:{PROJECT['version']}"}
    assert f"perdure:{PROJECT['version']}" in DOCKERFILE
    [wanted] = [one for text in PROJECT["dependencies"] if (one := Requirement(text)).name == "ray"]
    [ray_version] = re.findall(r"^ARG RAY=(\S+)", DOCKERFILE, re.MULTILINE)
    assert ray_version in wanted.specifier
    assert RAY_CLUSTER["spec"]["rayVersion"] == ray_version
    [python] = re.findall(r"^ARG PYTHON=(\S+)", DOCKERFILE, re.MULTILINE)
    assert python in SpecifierSet(PROJECT["requires-python"])
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    [extras] = re.findall(r'"\.\[(\S+)\]"', DOCKERFILE)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_the_image_has_what_it_copies_and_no_root() -> None:
    ignored = (ROOT / ".dockerignore").read_text()
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert {"pyproject.toml", "entities", "cluster", "api", "examples"} <= {*sources}
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}\n" in ignored, "else the build does not see it"
    final = DOCKERFILE.split("FROM ")[-1]
    [user] = re.findall(r"^USER (\d+)$", final, re.MULTILINE)
    assert int(user) >= 1_000
    assert f"--uid {user}" in final
    assert {pod["securityContext"]["runAsUser"] for pod in pods()} == {int(user)}
    assert all(pod["securityContext"]["runAsNonRoot"] for pod in pods())
    assert 'ENTRYPOINT ["tini", "--"]' in final
    assert {"/opt/perdure/bin:$PATH"} == {*re.findall(r"PATH=(\S+)", final)}


def test_every_variable_means_something() -> None:
    known = {f"PERDURE_{name.upper()}" for name in Settings.model_fields} | {*ENCRYPTION_VARIABLES, *LOG_VARIABLES}
    used = {variable for text in FILES.values() for variable in re.findall(r"\bPERDURE_[A-Z_]+", text)}
    assert {"PERDURE_DSN", "PERDURE_API_KEYS", "PERDURE_LOG_FORMAT"} <= used
    assert used - known == set()
    page = re.findall(r"\bPERDURE_[A-Z_]+", (ROOT / "docs" / "deployment.md").read_text())
    assert {f"PERDURE_{name.upper()}" for name in Settings.model_fields} - {*page} == set(), "name it there"
    assert {*page} - known == set()


def test_probes_and_ports_are_those_of_a_gateway() -> None:
    routes = create_app([]).openapi()["paths"].keys()
    [container] = GATEWAY["spec"]["template"]["spec"]["containers"]
    [port] = container["ports"]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["path"] for probe in probes.values()} <= routes
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",  # a database that is away is no reason to end gateways
        "readinessProbe": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert SERVICE["spec"]["ports"][0]["targetPort"] == port["name"]
    assert SERVICE["spec"]["selector"] == GATEWAY["spec"]["template"]["metadata"]["labels"]
    [served] = {re.findall(r"serve .* --port (\d+)", text)[0] for text in (COMPOSE_TEXT, KUBERAY_TEXT)}
    default: int = Settings.model_fields["port"].default
    assert int(served) == port["containerPort"] == default
    assert COMPOSE["services"]["gateway"]["ports"] == [f"127.0.0.1:{served}:{served}"]
    [healthy] = re.findall(r"http://127.0.0.1:(\d+)(/\w+)", DOCKERFILE)
    assert healthy == (served, "/livez")
    ends_s = Settings.model_fields["drain_s"].default + END_S
    assert GATEWAY["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > ends_s
    assert float(COMPOSE["services"]["gateway"]["stop_grace_period"].removesuffix("s")) > ends_s


def test_a_gateway_that_others_reach_has_credentials_and_ray_its_token() -> None:
    for environment in (
        COMPOSE["services"]["gateway"]["environment"],
        {variable["name"]: variable.get("value", "") for variable in containers()[-1]["env"]},
    ):
        assert environment["RAY_AUTH_MODE"] == "token"
        assert {"PERDURE_DSN", "PERDURE_API_KEYS", "RAY_AUTH_TOKEN"} <= environment.keys()
    assert RAY_CLUSTER["spec"]["authOptions"] == {"mode": "token"}
    assert COMPOSE["services"]["ray-head"]["environment"]["RAY_AUTH_MODE"] == "token"
    check_binding(Settings(host="0.0.0.0", api_keys=(SecretStr(SECRET["stringData"]["api-keys"]),)))


def test_every_reference_leads_to_something() -> None:
    references = [
        node["secretKeyRef"]
        for document in (RAY_CLUSTER, GATEWAY)
        for node in nodes(document)
        if "secretKeyRef" in node
    ]
    cluster = RAY_CLUSTER["metadata"]["name"]
    for reference in references:
        if reference["name"] == cluster:  # made by the operator
            assert reference["key"] == "auth_token"
        else:
            assert reference["name"] == SECRET["metadata"]["name"]
            assert reference["key"] in SECRET["stringData"]
    assert f"--address={cluster}-head-svc:6379" in containers()[-1]["args"][0]
    services = COMPOSE["services"]
    assert "--address=ray-head:6379" in services["gateway"]["command"][2]
    assert "@postgres:5432/" in services["gateway"]["environment"]["PERDURE_DSN"]
    assert {needed for service in services.values() for needed in service.get("depends_on", ())} <= services.keys()
    assert all("healthcheck" in services[name] for name in ("postgres", "ray-head"))
    assert (DEPLOY / services["gateway"]["build"]["context"]).resolve() == ROOT
    assert importlib.util.find_spec("examples.greeting.app") is not None
