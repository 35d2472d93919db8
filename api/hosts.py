"""What people do to hosts over HTTP: `POST /hosts/{host}/drain` takes one out in order.

It is a line in the database, written together with its row of the audit: any gateway can do it, also while Ray is away
or no host lives. The supervisor reads it there and carries it out (cluster/reconcile.py); poking it only spares the
wait for its next look, and tells whether there is one.

Who may: `operate` of `PerdureHost`, or of all types. A host serves entities of every type, so `operate` of some of them
does not do, whatever else the request names.
"""

from typing import Any, Protocol, runtime_checkable

from fastapi import APIRouter, Request
from starlette.routing import BaseRoute

from ..cluster.settings import ClusterSettings
from ..cluster.targets import Targets
from ..entities.archive import ambient_survey
from ..entities.store.survey import HOST, SurveyedHost, SurveyedHosts
from . import overview_rows as rows
from .answering import answering
from .archive_openapi import described
from .authorise import operator_of, permit
from .exchange import caller_of
from .overview_schemas import HostDrain
from .principal import WHOLE, Principal, Right
from .problems import Refused
from .repair import Why, read_body
from .requests import read_json
from .settings import Settings

POKE_S = 2.0
"""How long an answer of the supervisor is waited for. The order stands without it."""
_LIVE = frozenset({"active", "draining"})
_HOST: dict[str, Any] = {
    "name": "host",
    "in": "path",
    "required": True,
    "description": "Id of a host, as `GET /hosts` has it.",
    "schema": {"type": "string", "minLength": 1},
}


@runtime_checkable
class KnowsSupervisor(Protocol):
    """A caller that can reach the supervisor of its namespace."""

    async def poke_supervisor(self, *, timeout_s: float) -> bool:
        """Have it look now. False: there is none, or it does not answer."""
        ...


def host_routes(settings: Settings) -> list[BaseRoute]:
    """The route, for an application that is guarded elsewhere."""

    async def drain(request: Request, _: Principal) -> HostDrain:
        name: str = request.path_params["host"]
        who = await permit(request, settings, Right.OPERATE, HOST, WHOLE, name)
        why = read_body(Why, await read_json(request, settings, default=b"{}"))
        survey = ambient_survey()
        _check_live(await survey.hosts(), name)
        await survey.drain_host(name, operator=operator_of(who, why.operator), reason=why.reason)
        is_supervised = await _poke(request)
        return drain_of(await survey.hosts(), name, is_supervised=is_supervised)

    router = APIRouter(redirect_slashes=False)
    about = described([_HOST])
    about["openapi_extra"]["requestBody"] = {"content": {"application/json": {"schema": Why.model_json_schema()}}}
    router.add_api_route(
        "/hosts/{host}/drain",
        answering(drain, None, settings),
        methods=["POST"],
        summary="Take a host out in order",
        tags=["overview"],
        response_model=HostDrain,
        **about,
    )
    return list(router.routes)


async def _poke(request: Request) -> bool:
    caller: object = caller_of(request)
    return isinstance(caller, KnowsSupervisor) and await caller.poke_supervisor(timeout_s=POKE_S)


def _check_live(found: SurveyedHosts, name: str) -> None:
    """Raises Refused (404) if there is nothing to take out."""
    host = next((one for one in found.hosts if one.row.incarnation == name), None)
    if host is None:
        raise Refused(404, "no_such_host", f"no host {name[:80]!r} is alive, or was within the last day")
    if host.row.status not in _LIVE:
        how = "has left in order" if host.row.status == "stopped" else "was declared dead; others have its shards"
        raise Refused(404, "no_such_host", f"host {name} is gone: it {how}")


def drain_of(found: SurveyedHosts, name: str, *, is_supervised: bool) -> HostDrain:
    """How it stands with a host that was ordered out."""
    targets = Targets.from_json(found.targets)
    lease_s = (targets.settings if targets is not None else ClusterSettings()).lease_s
    host = next(one for one in found.hosts if one.row.incarnation == name)
    wanted, active = targets.hosts if targets is not None else None, rows.host_counts(found).alive
    return HostDrain(
        host=rows.host_of(host, found.at_us, lease_s=lease_s),
        hosts_active=active,
        hosts_wanted=wanted,
        is_supervised=is_supervised,
        next=_next(host, active, wanted, is_supervised=is_supervised),
    )


def _next(host: SurveyedHost, active: int, wanted: int | None, *, is_supervised: bool) -> str:
    if host.row.status not in _LIVE:
        return "nothing: it is gone"
    if wanted is None:
        return "nothing yet: nobody has said how many hosts should run here (`perdure up`); it serves what it owns"
    if not is_supervised:
        return (
            "no supervisor answers: the order is kept and carried out once there is one, which hosts start by "
            "themselves; until then it serves what it owns"
        )
    if active < wanted:
        return (
            f"it serves what it owns until its successor is there: {active} of the {wanted} hosts that are wanted are "
            "active"
        )
    return "it hands its shards over to the others and ends"
