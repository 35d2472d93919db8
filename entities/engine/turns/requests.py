"""What others ask of an entity's workflows and mailboxes: start, result, signal, cancel, terminate, replies."""

import logging
from collections import deque

import msgspec

from ...errors import (
    AlreadyStarted,
    CallCycle,
    NoSuchRun,
    RunEnded,
    RunParked,
    WorkflowTerminated,
)
from ...ids import new_run_id
from ...messages import Kind, OperationAddress, Status, decode_outcome, encode_json
from ...store.rows import (
    MailboxItem,
    RunRow,
    RunStatus,
)
from ..children import StartOptions
from ..deliveries import (
    Delivery,
    mailbox_full,
)
from ..journal import Event, EventKind
from ..rings import ring_with
from ..run import Run
from .queries import Queries
from .record import NULL

log = logging.getLogger("perdure.engine")


class Requests(Queries):
    """Messages about runs."""

    __slots__ = ()

    def _start(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        row = self.rows.get(envelope.name)
        options = StartOptions.parse(envelope.options)
        if row is not None and not (row.status.is_terminal and options.restart):
            if row.fingerprint != delivery.fingerprint:
                self._reject(
                    delivery,
                    AlreadyStarted(
                        f"{self.id}.{envelope.name} was started before with other arguments (run {row.run_id}, "
                        f"{row.status}); to start it anew once it has ended use .options(restart=True)",
                        run_id=row.run_id,
                        status=row.status,
                    ),
                )
                return
            self._join(delivery, row)
            return
        row = RunRow(
            workflow=envelope.name,
            run_id=new_run_id(),
            status=RunStatus.RUNNING,
            args=envelope.args,
            fingerprint=delivery.fingerprint,
            started_us=self.engine.now_us(),
            reply_to=(envelope.reply_to,) if envelope.reply_to else (),
            chain=envelope.chain,
            parent=f"{envelope.sender}#{options.parent}" if options.parent else "",
        )
        self.rows[envelope.name] = row
        run = Run(self.definition, self.entity, self.id, row)
        self.runs[envelope.name] = run
        run.trace = envelope.trace
        self._consume(delivery, ok=True, body=encode_json(row.run_id), by_run=True)
        self._resume(run, [Event(EventKind.START)], None, is_same_turn=True)

    def _join(self, delivery: Delivery, row: RunRow) -> None:
        """Started again with equal input: the same run."""
        body = encode_json(row.run_id)
        if not delivery.envelope.reply_to:
            if delivery.is_stored or delivery.is_storing:
                self._consume(delivery, ok=True, body=body)
            else:
                version = self.version
                self._gate(delivery, lambda: delivery.reply(Status.OK, body, version))
            return
        self._await_run(delivery, row)

    def _await_run(self, delivery: Delivery, row: RunRow) -> None:
        """Another entity's workflow waits for this run: answer now, or note it with the run."""
        envelope = delivery.envelope
        run = self.runs.get(row.workflow)
        ring = ring_with(run, envelope.chain) if run is not None else None
        if ring is not None:
            self._reject(
                delivery,
                CallCycle(
                    f"{self.id}.{row.workflow} and its caller would wait for each other: {' → '.join(ring)}", chain=ring
                ),
            )
            return
        write = self._consume(delivery, ok=True, body=encode_json(row.run_id))
        if row.status.is_terminal:
            self._send_reply(write, envelope.reply_to, ok=row.status is RunStatus.COMPLETED, body=row.outcome)
        else:
            self._set_row(write, row._replace(reply_to=(*row.reply_to, envelope.reply_to)))

    def _result(self, delivery: Delivery) -> None:
        name = delivery.envelope.name
        row = self.rows.get(name)
        if row is None:
            self._reject(delivery, NoSuchRun(f"{self.id}.{name} was never started; start it with .{name}.start(...)"))
        elif delivery.envelope.reply_to:
            self._await_run(delivery, row)
        elif row.status is RunStatus.RUNNING:
            self.by_id.pop(delivery.envelope.id, None)
            self.engine.results.wait(self.id, name, delivery)
        else:
            self._gate(delivery, lambda: self._tell_result(delivery, row))

    def _signal(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        queue = self.items.setdefault(envelope.name, deque())
        takers = (
            run
            for run in self.runs.values()
            if any(op.name == envelope.name for op in run.receivers()) and not run.row.paused
        )
        taker = next(takers, None)
        if taker is None and self.is_full(envelope.name):
            self._wait_for_room(delivery)
            return
        write = self._consume(delivery, ok=True, body=NULL, by_run=taker is not None)
        item = MailboxItem(envelope.name, self.version, envelope.id, envelope.args)
        queue.append(item)
        write.items_put.append(item)
        if taker is not None:
            self._resume(taker, [], None, is_same_turn=True)

    def _wait_for_room(self, delivery: Delivery) -> None:
        """The mailbox is full: refused if nothing was acknowledged, else it waits in the inbox, in order."""
        if not delivery.is_stored and not delivery.is_storing:
            self.by_id.pop(delivery.envelope.id, None)
            delivery.reply(Status.BUSY, encode_json(mailbox_full(self.definition, delivery.envelope).body()), 0)
            return
        sender = delivery.envelope.sender
        self._hold_back(delivery)
        self.crowded.setdefault(delivery.envelope.name, {})[sender] = None

    def _end_by_request(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        row = self.rows.get(envelope.name)
        if row is None:
            self._reject(delivery, NoSuchRun(f"{self.id}.{envelope.name} was never started"))
            return
        words = msgspec.json.decode(envelope.args, type=dict[str, str]) if envelope.args != b"{}" else {}
        parent = words.get("parent", "")
        if parent and (parent != row.parent or row.status.is_terminal):
            self._consume(delivery, ok=True, body=NULL)  # not, or not any more, a child of the run that has ended
            return
        if row.status.is_terminal:
            if envelope.kind is Kind.TERMINATE:
                self._reject(delivery, RunEnded(f"{self.id}.{envelope.name} has ended already ({row.status})"))
            else:
                self._consume(delivery, ok=True, body=NULL)
            return
        run = self.runs.get(envelope.name)
        if run is None and envelope.kind is Kind.CANCEL:
            # Its code cannot run, so its cleanup could not: to end it without is a decision for a person.
            self._reject(
                delivery,
                RunParked(
                    f"{self.id}.{envelope.name} is parked and cannot clean up, so it is not cancelled; deploy code "
                    "that fits its journal and cancel again, or `.terminate()` it to give its cleanup up"
                ),
            )
            return
        is_cancel = envelope.kind is Kind.CANCEL
        write = self._consume(delivery, ok=True, body=NULL, by_run=is_cancel)
        if is_cancel and run is not None:
            self._resume(run, [Event(EventKind.CANCEL)], None, is_same_turn=True)
            return
        reason = words.get("reason", "")
        error = WorkflowTerminated(f"{self.id}.{envelope.name} was terminated{': ' + reason if reason else ''}")
        if run is not None:
            self._withdraw(write, run, list(run.pending.values()))
        self._close_run(write, row, RunStatus.TERMINATED, encode_json(error.body()))

    def _reply(self, delivery: Delivery) -> None:
        """The answer to a call of one of this entity's workflows."""
        address = OperationAddress.parse(delivery.envelope.name)
        outcome = decode_outcome(delivery.envelope.args)
        event = (
            Event(EventKind.VALUE, address.number, outcome.value)
            if outcome.ok
            else Event(EventKind.ERROR, address.number, msgspec.Raw(encode_json(outcome.error)))
        )
        run = self._waiting_run(address)
        if run is None:
            self._enter(None)
        write = self._turn()
        write.consumed.append((delivery.envelope.position, delivery.envelope.id))
        self._output(delivery, None)
        if run is not None:
            self._resume(run, [event], None, is_same_turn=True)
            return
        row = self.rows.get(address.workflow)
        if row is not None and row.status is RunStatus.PARKED and row.run_id == address.run_id:
            self._put_held(write, row, [event])
        elif row is not None and row.children:
            self._child_ended(write, row, delivery.envelope.name)
