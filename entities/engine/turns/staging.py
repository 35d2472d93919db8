"""Turns that stage SQL (`perdure.entities.staged`): alone in their entity's write, so that a refusal is theirs.

Whether a turn stages is known when it has run. If turns before it are not durable yet, it is taken back: the state is
restored, and it runs again once they are. Then nothing joins it until it is durable itself.
"""

from ...store.rows import EntityWrite, Staged
from ..deliveries import Delivery
from .resumes import Resumes


class StagingBarrier:
    """Stands in `busy`: turns wait for a commit. Queries are answered from what is durable, as during a handler."""

    __slots__ = ()

    def cancel(self) -> None:
        """The activation leaves memory."""


class Staging(Resumes):
    """One turn per commit."""

    __slots__ = ()

    def _may_stage(self, delivery: Delivery) -> bool:
        """Whether the turn that has just run can be written as it is; else it waits and runs again."""
        if self.write is None and self.inflight is None:
            return True
        self.definition.replace_fields(self.entity, self.snapshot)
        self.mailbox.appendleft(delivery)
        self._wait_for_commit()
        return False

    def _stage(self, write: EntityWrite, staged: list[Staged]) -> None:
        write.staged = tuple(staged)
        self._wait_for_commit()

    def _wait_for_commit(self) -> None:
        barrier = StagingBarrier()
        self.busy = barrier

        def durable() -> None:
            if self.busy is barrier:
                self.busy = None
                self.engine.ready(self)

        if self.write is not None:
            self.turns.append((None, durable))
        else:
            assert self.inflight is not None, "something is to be committed"
            self.inflight[1].append((None, durable))
