"""Loan applications over HTTP: `perdure dev examples.loan.app`, then http://127.0.0.1:8000/docs."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import Body, FastAPI, Header, HTTPException
from pydantic import BaseModel, Field

from perdure.api import install, lifespan
from perdure.entities import find, history

from .activities import Application, Mail
from .entities import Decision, Loan, Paper, Status, Summary

app = FastAPI(title="Loans", lifespan=lifespan([Loan, Mail]))
install(app)


class Request(BaseModel):
    user: str
    email: str
    amount: int = Field(gt=0, le=1_000_000)
    purpose: str
    documents: dict[Paper, str] = {}


class Receipt(BaseModel):
    id: str
    status: Status
    message: str


@app.post("/loans", status_code=202)
async def submit(request: Request, idempotency_key: Annotated[str, Header()] = "") -> Receipt:
    """Answers at once; everything else happens later. Sent again with its `Idempotency-Key` it is the same request."""
    loan_id = idempotency_key or uuid4().hex
    application = Application(user=request.user, email=request.email, amount=request.amount, purpose=request.purpose)
    await Loan.ref(loan_id).process.start(application, request.documents)
    state = await Loan.ref(loan_id).summary()
    return Receipt(id=loan_id, status=state.status, message=state.message)


class Page(BaseModel):
    loans: list[Summary]
    next: str | None
    """Ask for `?after=` this to see more."""


@app.get("/loans")
async def listing(status: Status = "Waiting for a person", limit: int = 50, after: str | None = None) -> Page:
    """Requests by status: those that wait for a person, unless told otherwise."""
    page = await find(Loan, status=status, limit=limit, after=after)
    return Page(loans=[Summary.model_validate(match.state) for match in page.matches], next=page.next)


@app.get("/loans/{loan_id}")
async def state(loan_id: str) -> Summary:
    summary = await Loan.ref(loan_id).summary()
    if summary.application is None:  # every key has an entity, but not every key is a request
        raise HTTPException(404, f"There is no loan request {loan_id}")
    return summary


class Event(BaseModel, from_attributes=True):
    """One line of a request's timeline."""

    at: datetime
    what: str
    name: str
    input: Any
    output: Any
    error: Any


@app.get("/loans/{loan_id}/timeline")
async def timeline(loan_id: str) -> list[Event]:
    """Messages, steps with their inputs and outputs, timers and waits, as they happened."""
    page = await history(Loan.ref(loan_id), limit=1_000)
    return [Event.model_validate(event) for event in page.events]


@app.put("/loans/{loan_id}/documents/{paper}")
async def upload(loan_id: str, paper: Paper, content: Annotated[str, Body(embed=True)]) -> list[Paper]:
    """Upload a missing document; the answer is what is still missing."""
    await state(loan_id)
    return await Loan.ref(loan_id).upload(paper, content)


@app.post("/loans/{loan_id}/{verdict}", status_code=202)
async def decide(loan_id: str, verdict: Literal["approve", "reject"], by: str, reason: str = "") -> None:
    """May come before anybody waits for it, and is kept; the first one counts, and pressing twice sends one."""
    await state(loan_id)
    decision = Decision(is_approved=verdict == "approve", by=by, reason=reason)
    await Loan.ref(loan_id).decision.options(idempotency_key=f"{verdict} by {by}").send(decision)


@app.get("/mail/{address}")
async def mail(address: str) -> list[str]:
    """What was mailed to an address (the demo has no mail server)."""
    return await Mail.ref(address).read()
