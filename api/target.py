"""`perdure dev MODULE`: finding the application and the entity classes in a module of the user's."""

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fastapi import FastAPI

from ..entities.definition import Registry, entity_classes
from ..entities.entity import Entity
from ..entities.errors import DefinitionError
from .exits import Exit
from .failures import Failure


class Target(NamedTuple):
    """What to serve."""

    app: Any
    """The user's application, or None: then a gateway is made from the classes."""
    registry: Registry


def put_on_path(directory: Path) -> None:
    """Let modules in `directory` be imported here and in every process that is started from here, Ray workers too."""
    place = str(directory)
    if place not in sys.path:
        sys.path.insert(0, place)
    paths = [place, *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != place)]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def load_target(spec: str, *, debug: bool = False) -> Target:
    """`package.module` or `package.module:app`. Raises Failure; with debug, import errors as they are."""
    name, _, attribute = spec.partition(":")
    module = _import(name, debug=debug)
    app = _app(module, attribute or "app", is_named=bool(attribute))
    registry = _registry(module, app)
    if not len(registry):
        raise Failure(
            "no_entities",
            f"{name} has no entity classes (import them there, or name the module that defines them)",
            Exit.USAGE,
        )
    registry.names()
    return Target(app, registry)


def _import(name: str, *, debug: bool) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        dotted = name.removesuffix(".py").replace(os.sep, ".").strip(".")
        raise Failure(
            "bad_module", f"{name!r} is not the name of a module (write it as `perdure dev {dotted}`)", Exit.USAGE
        )
    try:
        return importlib.import_module(name)
    except DefinitionError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (name + ".").startswith(error.name + "."):
            raise Failure(
                "module_not_found",
                f"there is no module {error.name!r} in {Path.cwd()} or on PYTHONPATH (run `perdure dev` in the "
                "directory that holds it)",
                Exit.USAGE,
            ) from None
        if debug:
            raise
        raise Failure("import_failed", _where(error, name), Exit.USAGE) from error
    except Exception as error:
        if debug:
            raise
        raise Failure("import_failed", _where(error, name), Exit.USAGE) from error
    except SystemExit as error:
        raise Failure(
            "import_failed", f"importing {name} ended the process: sys.exit({error.code})", Exit.USAGE
        ) from None


def _where(error: Exception, name: str) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<") and importlib.__file__ != frame.filename]
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    else:
        place = f"{own[-1].filename}:{own[-1].lineno}" if own else name
    text = " ".join(traceback.format_exception_only(error)[-1].split())
    return f"importing {name} failed at {place}: {text} (--debug shows the traceback)"


def _app(module: ModuleType, name: str, *, is_named: bool) -> Any:
    app = getattr(module, name, None)
    if app is None and is_named:
        raise Failure("no_app", f"{module.__name__} has no {name!r}", Exit.USAGE)
    if app is None or isinstance(app, FastAPI) or (callable(app) and not isinstance(app, type) and is_named):
        return app
    if is_named:
        raise Failure("no_app", f"{module.__name__}.{name} is {type(app).__name__}, not an application", Exit.USAGE)
    return app if isinstance(app, FastAPI) else None


def _registry(module: ModuleType, app: Any) -> Registry:
    """What the application lists in its lifespan and what the module holds; else whatever importing it has loaded."""
    listed: Registry | None = None
    if isinstance(app, FastAPI):
        listed = getattr(app.router.lifespan_context, "perdure_registry", None)
    classes = [definition.cls for definition in listed or ()]
    classes += entity_classes(module)
    if not classes and app is not None:
        classes = _loaded(Entity)
    return Registry(dict.fromkeys(classes))


def _loaded(base: type[Entity]) -> list[type[Entity]]:
    found: list[type[Entity]] = []
    for cls in base.__subclasses__():
        found += [cls, *_loaded(cls)]
    return found
