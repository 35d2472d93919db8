# mypy: ignore-errors
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
# pyright: reportSelfClsParameterName=false, reportGeneralTypeIssues=false
# ruff: noqa: ANN001, ANN202
"""Entity classes that are written wrongly: each function makes one mistake, in its first lines."""

from datetime import timedelta
from typing import Any

from pydantic import Field, PrivateAttr

from perdure.entities import Entity, Mailbox, activity, handler, query, workflow


class Shop(Entity):
    """What some of them inherit from."""

    @handler
    async def sell(self, name: str) -> int:
        return len(name)


def handler_is_not_async() -> None:
    class Bad(Entity):
        @handler
        def sell(self) -> None: ...


def query_is_not_async() -> None:
    class Bad(Entity):
        @query
        def left(self) -> int:
            return 1


def workflow_is_a_generator() -> None:
    class Bad(Entity):
        @workflow
        async def run(self):
            yield 1


def handler_takes_star() -> None:
    class Bad(Entity):
        @handler
        async def sell(self, *names: str) -> None: ...


def handler_takes_double_star() -> None:
    class Bad(Entity):
        @handler
        async def sell(self, **names: str) -> None: ...


def parameter_has_no_annotation() -> None:
    class Bad(Entity):
        @handler
        async def sell(self, name) -> None: ...


def parameter_is_positional_only() -> None:
    class Bad(Entity):
        @handler
        async def sell(self, name: str, /) -> None: ...


def method_without_self() -> None:
    class Bad(Entity):
        @handler
        async def sell() -> None: ...


def handler_is_called_ref() -> None:
    class Bad(Entity):
        @handler
        async def ref(self) -> None: ...


def handler_is_called_key() -> None:
    class Bad(Entity):
        @handler
        async def key(self) -> None: ...


def handler_is_private() -> None:
    class Bad(Entity):
        @handler
        async def _sell(self) -> None: ...


def handler_is_dunder() -> None:
    class Bad(Entity):
        @handler
        async def __call__(self) -> None: ...


def handler_is_pydantics() -> None:
    class Bad(Entity):
        @handler
        async def model_dump(self) -> None: ...


def mailbox_is_private() -> None:
    class Bad(Entity):
        _orders = Mailbox(int)


def one_function_two_names() -> None:
    class Bad(Entity):
        @handler
        async def sell(self) -> None: ...

        vend = sell


def doubly_decorated() -> None:
    class Bad(Entity):
        @handler
        @query
        async def sell(self) -> None: ...


def decorated_activity() -> None:
    class Bad(Entity):
        @handler
        @activity
        async def sell(self: Any) -> None: ...


def decorated_staticmethod() -> None:
    class Bad(Entity):
        @handler
        @staticmethod
        async def sell() -> None: ...


def timeout_is_zero() -> None:
    class Bad(Entity):
        @handler(timeout=timedelta(0))
        async def sell(self) -> None: ...


def overridden_by_a_plain_method() -> None:
    class Bad(Shop):
        async def sell(self, name: str) -> int:
            return len(name)


def overridden_by_another_kind() -> None:
    class Bad(Shop):
        @query
        async def sell(self, name: str) -> int:
            return len(name)


def field_without_default() -> None:
    class Bad(Entity):
        stock: int


def field_is_excluded() -> None:
    class Bad(Entity):
        stock: int = Field(default=1, exclude=True)


def field_is_called_key() -> None:
    class Bad(Entity):
        key: str = "x"


def private_state() -> None:
    class Bad(Entity):
        _stock: int = 1


def private_attribute() -> None:
    class Bad(Entity):
        _stock: int = PrivateAttr(default=1)


def name_is_no_identifier() -> None:
    class Bad(Entity, name="my shop/1"):
        pass


def version_is_zero() -> None:
    class Bad(Entity, version=0):
        pass
