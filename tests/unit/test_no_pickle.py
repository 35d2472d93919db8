"""Nothing stored or received is ever unpickled, evaluated or imported by a name in data (S9, S10)."""

import ast
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from perdure.cluster.dedicated.wire import read_answer
from perdure.cluster.peers import decode_entities
from perdure.cluster.routes import decode_routes
from perdure.cluster.wire import decode_answer, decode_offer
from perdure.entities import Entity, UnknownType, handler
from perdure.entities.definition import EntityDefinition, Registry
from perdure.entities.errors import PerdureError
from perdure.entities.messages import decode_error, decode_outcome
from perdure.entities.operate import read_act
from perdure.entities.testing.replay import decode_recording
from perdure.entities.tokens import read_token

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {"pickle", "cloudpickle", "_pickle", "dill", "shelve", "marshal", "joblib", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
"""Built-in functions only: `re.compile` is an attribute."""
YAML = {f"yaml.{name}" for name in ("load", "load_all", "full_load", "unsafe_load", "Loader", "UnsafeLoader")}


@pytest.mark.parametrize("folder", ["entities", "cluster", "api"])
def test_no_code_of_ours_can_unpickle_or_evaluate(folder: str) -> None:
    found: list[str] = []
    files = sorted((ROOT / folder).rglob("*.py"))
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(one.name for one in node.names)]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
                found.append(f"{path}:{node.lineno} {node.func.id}()")
            elif isinstance(node, ast.Attribute) and ast.unparse(node) in YAML:
                found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
            found += [f"{path} {name}" for name in names if set(name.split(".")) & FORBIDDEN]
    assert len(files) > 20
    assert found == []


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.mark,)


class Box(Entity):
    value: int = 0

    @handler
    async def put(self, value: object) -> None: ...


BOX = EntityDefinition(Box)
READERS: dict[str, Callable[[bytes], object]] = {
    "state": lambda data: BOX.load("k", data),
    "arguments": BOX.handlers["put"].signature.load_arguments,
    "outcome": decode_outcome,
    "error": decode_error,
    "action": read_act,
    "token": lambda data: read_token(data.decode("latin-1")),
    "recording": decode_recording,
    "messages of a client": decode_offer,
    "answers of a host": decode_answer,
    "addresses": decode_entities,
    "routes": decode_routes,
    "answer to a dedicated actor": read_answer,
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_in_place_of_our_data_is_refused_and_not_run(tmp_path: Path, what: str, protocol: int) -> None:
    mark = tmp_path / "mark"
    with pytest.raises((PerdureError, msgspec.DecodeError, ValueError)):
        READERS[what](pickle.dumps(Bomb(mark), protocol=protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["os.system", "os:system", "perdure.api.cli", "builtins", "__main__", "../Box", "Box()"]
)
def test_types_are_found_through_the_registry_only(name: str) -> None:
    with pytest.raises(UnknownType):
        Registry([Box]).get(name)
