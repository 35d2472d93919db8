"""Approval over HTTP: `perdure dev examples.approval.app`."""

from fastapi import FastAPI

from perdure.api import entity_router, install, lifespan

from .entities import Approval, ApprovalStatus, Decision, Request

app = FastAPI(title="Approval", lifespan=lifespan([Approval]))
install(app)


@app.put("/approvals/{request_id}")
async def ask_for_approval(request_id: str, request: Request) -> ApprovalStatus:
    """The requester names the request: asking again, after an error or a time-out, is the same request."""
    approval = Approval.ref(request_id)
    await approval.run.start(request)
    return await approval.state()


@app.put("/approvals/{request_id}/decision")
async def decide(request_id: str, decision: Decision) -> ApprovalStatus:
    """One decision of each person: pressing the button twice sends one."""
    approval = Approval.ref(request_id)
    await approval.decisions.options(idempotency_key=decision.by).send(decision)
    return await approval.state()


app.include_router(entity_router(Approval), prefix="/approvals")  # GET …/state, …/run/result
