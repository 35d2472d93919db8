"""Runs that runs and handlers have started: what ends with its parent, and who is told of an end.

Promises P2 and P3: a policy is recorded by the commit that sends the start, and applied by the commit that ends the
parent, whatever ended it; so it is applied exactly once, and never for a start that did not happen.

Protocol
--------
* `START` with the option `parent=<operation>`: whoever starts a new run by it becomes that run's parent. A run that
  was there already has another parent, or none, and is not touched by this one's end.
* When the parent ends, every child that has not been heard of since gets a CANCEL or TERMINATE that names the parent's
  operation. It leaves after the start, from the same sender, hence is applied after it. A child whose parent is
  another one ignores it. Children of children follow, because the child ends in the same way.
* `START` with the option `notify=<handler>/<token>`: when the run ends (or is refused), the sender gets a one-way
  message to that handler with the token and the outcome. So a schedule, which is no workflow, hears of what it started.
"""

from typing import NamedTuple

from ..errors import Rejected
from ..ids import EntityId
from ..messages import Kind, encode_json
from ..store.rows import Child

CHILDREN_MAX = 1_000
"""Live children with a close policy per run: they are part of the run's row."""
NOTIFY = "!"
"""Marks an address to reply to as a handler: `Type/key#!handler/token`."""


class TooManyChildren(Rejected):
    """The workflow has started too many children with a parent-close policy that have not ended."""

    code = "too_many_children"


class StartOptions(NamedTuple):
    """`Envelope.options` of a START, taken apart."""

    restart: bool = False
    parent_close: str = ""
    """Inside the parent only: what to do with the run when the parent ends."""
    parent: str = ""
    notify: str = ""

    @classmethod
    def parse(cls, options: str) -> "StartOptions":
        """Unknown options are ignored: a newer sender may know more."""
        if not options:
            return NO_START_OPTIONS
        words = {name: value for name, _, value in (word.partition("=") for word in options.split(","))}
        return cls("restart" in words, words.get("parent_close", ""), words.get("parent", ""), words.get("notify", ""))

    @property
    def on_the_wire(self) -> str:
        """What the receiver needs to know."""
        return ",".join(
            word
            for word in (
                "restart" if self.restart else "",
                f"parent={self.parent}" if self.parent else "",
                f"notify={self.notify}" if self.notify else "",
            )
            if word
        )


NO_START_OPTIONS = StartOptions()


def adopt(options: str, operation: str, run: str) -> tuple[str, Child | None]:
    """A start that workflow code asks for: (its options on the wire, the child to be recorded)."""
    parsed = StartOptions.parse(options)
    if not parsed.parent_close:
        return options, None
    return parsed._replace(parent=operation).on_the_wire, Child(operation, run, parsed.parent_close)


def reply_address(sender: EntityId, options: str) -> str:
    """Where the end of the run is to be told, for a start without an operation that waits."""
    notify = StartOptions.parse(options).notify
    return f"{sender}#{NOTIFY}{notify}" if notify else ""


class Closing(NamedTuple):
    """The message that applies a policy."""

    target: EntityId
    kind: Kind
    workflow: str
    id: str
    args: bytes


def closing(parent: EntityId, child: Child) -> Closing:
    """What is sent to a child when its parent has ended."""
    target, _, workflow = child.run.rpartition("#")
    operation = f"{parent}#{child.operation}"
    kind = Kind.CANCEL if child.policy == "cancel" else Kind.TERMINATE
    reason = f"its parent {parent}.{child.operation.partition('/')[0]} has ended"
    args = encode_json({"parent": operation, "reason": reason})
    return Closing(EntityId.parse(target), kind, workflow, f"{child.operation}:close", args)
