"""`Mailbox`: a durable signal mailbox of an entity class, as a typed descriptor (see descriptors)."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from .calls import NO_OPTIONS, CallOptions, Target, send
from .context import current
from .errors import DefinitionError, InvalidArguments, NotInWorkflow, PayloadTooLarge
from .messages import Kind
from .signature import PAYLOAD_BYTES_MAX, has_nul, validation_problems
from .storable import python_only

if TYPE_CHECKING:
    from .entity import Entity

T = TypeVar("T")

MAILBOX_ITEMS_MAX = 10_000
"""Items in one durable mailbox, unless it says less: all of them are loaded with their entity."""


class Mailbox(Generic[T]):
    """A durable mailbox of an entity class: `decision = Mailbox(Decision)`.

    Anybody may send at any time, before or after somebody waits; a workflow of the entity receives the items in
    order, each once.
    """

    def __init__(self, item: type[T], *, max_items: int = MAILBOX_ITEMS_MAX, private: bool = False) -> None:
        """item: the type of the items. max_items: how many may lie in it. private: see `handler`.

        A sender from outside is told `Busy` while it is full, before anything is accepted. Messages of entities wait
        in the entity's inbox, in the order sent, until there is room. Raises DefinitionError.
        """
        given: object = max_items
        if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MAILBOX_ITEMS_MAX:
            raise DefinitionError(f"Mailbox(max_items={max_items!r}): a mailbox holds 1 to {MAILBOX_ITEMS_MAX} items")
        self.item = item
        self.max_items = max_items
        self.name = ""
        self.is_private = private
        self._adapter: TypeAdapter[T] | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> "BoundMailbox[T]": ...
    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else BoundMailbox(self, instance)

    @property
    def adapter(self) -> TypeAdapter[T]:
        """Validator and serialiser of items."""
        if self._adapter is None:
            self._adapter = TypeAdapter(self.item)
        return self._adapter

    def compile(self, place: str) -> None:
        """Build the validator now. Raises DefinitionError if the items cannot be validated or read from JSON."""
        try:
            found = python_only(self.adapter.core_schema)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise DefinitionError(f"{place}: mailbox {self.name}: its items cannot be validated: {reason}") from error
        if found:
            raise DefinitionError(f"{place}: mailbox {self.name}: an item is {found}, which cannot be read from JSON")

    def dump(self, item: object) -> bytes:
        """An item as JSON. Raises InvalidArguments, PayloadTooLarge."""
        try:
            data = self.adapter.dump_json(self.adapter.validate_python(item, strict=True))
        except ValidationError as error:
            raise self._invalid(error) from None
        except (PydanticSerializationError, UnicodeError) as error:
            raise InvalidArguments(f"mailbox {self.name}: the item cannot be written as JSON: {error}") from None
        if len(data) > PAYLOAD_BYTES_MAX:
            raise PayloadTooLarge(
                f"mailbox {self.name}: the item is {len(data)} bytes; the limit is {PAYLOAD_BYTES_MAX}"
            )
        if has_nul(data):
            raise InvalidArguments(f"mailbox {self.name}: the item holds a NUL character, which cannot be stored")
        return data

    def load(self, data: bytes) -> T:
        """An item from JSON. Raises InvalidArguments."""
        try:
            return self.adapter.validate_json(data, strict=True)
        except ValidationError as error:
            raise self._invalid(error) from None

    def _invalid(self, error: ValidationError) -> InvalidArguments:
        problems = validation_problems(error)
        text = "; ".join(f"{p['field'] or 'item'}: {p['message']}" for p in problems)
        return InvalidArguments(f"mailbox {self.name}: wrong item: {text}", errors=problems)


class BoundMailbox(Generic[T]):
    """A mailbox of one entity."""

    __slots__ = ("mailbox", "options_", "target")

    def __init__(self, mailbox: Mailbox[T], target: "Entity | Target", options: CallOptions = NO_OPTIONS) -> None:
        self.mailbox = mailbox
        self.target = target
        self.options_ = options

    async def send(self, item: T) -> None:
        """Put an item in; returns once it is durable. In a turn it leaves with that turn's commit."""
        target = Target.of(self.target)
        await send(target, Kind.SIGNAL, self.mailbox, (item,), {}, self.options_)

    async def receive(self) -> T:
        """Take the next item, waiting without limit (use `asyncio.timeout`). In a workflow of this entity only."""
        turn = current.get()
        if turn is None or turn.mode != "workflow" or isinstance(self.target, Target):
            raise NotInWorkflow(f"mailbox {self.mailbox.name}: receive() works only in a workflow of its own entity")
        return self.mailbox.load(await turn.receive(self.mailbox.name))

    def options(self, *, timeout: timedelta | float | None = None, idempotency_key: str = "") -> "BoundMailbox[T]":
        """The same mailbox with options for this use.

        timeout: how long `send` waits, also for room in a full mailbox. idempotency_key: repeated sends with this key
        put the item in once. Numbers are seconds.
        """
        options = CallOptions.of(timeout=timeout, idempotency_key=idempotency_key)
        return BoundMailbox(self.mailbox, self.target, options)
