"""Money transfer over HTTP: `perdure dev examples.money_transfer.app`, then http://127.0.0.1:8000/docs."""

from contextlib import suppress

from fastapi import FastAPI
from pydantic import BaseModel

from perdure.api import entity_router, install, lifespan
from perdure.entities import NoSuchRun, find

from .bank import Account, Statement
from .entities import Order, Status, Transfer, move

app = FastAPI(title="Money transfer", lifespan=lifespan([Transfer, Account]))
install(app)


@app.put("/transfers/{transfer_id}", status_code=202)
async def transfer(transfer_id: str, order: Order) -> Status:
    """Answers at once. Sent again it is the same transfer."""
    await Transfer.ref(transfer_id).run.start(order)
    return await Transfer.ref(transfer_id).at()


@app.put("/transfers/{transfer_id}/as-saga", status_code=202)
async def transfer_as_saga(transfer_id: str, order: Order) -> Status:
    """As above; taken back if the bank refuses it."""
    await Transfer.ref(transfer_id).run_as_saga.start(order)
    return await Transfer.ref(transfer_id).at()


class Moved(BaseModel):
    left: int
    """In the source."""


@app.put("/transfers/{transfer_id}/at-once")
async def transfer_at_once(transfer_id: str, order: Order) -> Moved:
    """In one commit: when this answers it is done. Sent again it is the same transfer."""
    source, target = Account.ref(order.source), Account.ref(order.target)
    once = move.options(idempotency_key=transfer_id)
    return Moved(left=await once(source, target, order.amount, f"at once: {transfer_id}"))


class Stuck(BaseModel):
    """A transfer whose attempts are used up."""

    transfer: str
    operation: int
    problem: str


@app.get("/stuck")
async def stuck() -> list[Stuck]:
    """What waits for a person: of each such transfer, the operation to retry and what went wrong."""
    found: list[Stuck] = []
    for match in (await find(Transfer, status__in=["Withdrawing", "Depositing"])).matches:
        for run in (Transfer.ref(match.key).run, Transfer.ref(match.key).run_as_saga):
            with suppress(NoSuchRun):  # a transfer is one or the other
                found += [
                    Stuck(transfer=match.key, operation=it.number, problem=it.last_error.message)
                    for it in (await run.operations()).operations
                    if it.status == "paused" and it.last_error is not None
                ]
    return found


@app.get("/accounts/{account}")
async def statement(account: str) -> Statement:
    return await Account.ref(account).statement()


app.include_router(entity_router(Account), prefix="/accounts")  # POST …/deposit, …/lock, …/close
app.include_router(entity_router(Transfer), prefix="/transfers")  # POST …/run/retry, GET …/run/operations, …/run/result
