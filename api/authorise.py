"""Whether whoever calls may do what the request asks. Refused comes before found: who may not, learns of nothing.

The guard (access.py) leaves a `Permit` with each request: who calls, and what decides. Routes ask `permit()` before
they look at anything else. Decided by the principal's grants, or by an authoriser of the application's own, which may
look at the key as well ("a customer sees its own orders").

Whatever needs the right `operate` or `admin` is written to the log `perdure.audit`, refused or not; what was done
stands with its operator in the history of the entity as well.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request

from .principal import LOCAL, WHOLE, Asked, Principal, Right
from .problems import Refused, request_id
from .settings import Settings

Authoriser = Callable[[Principal, Asked], Awaitable[bool | None]]
"""True: allowed. False: refused. None: the grants decide."""

PERMIT = "permit"
"""Under which the guard puts it into `scope["perdure"]`."""
IS_TRUSTED = "is_trusted"
"""Whether the guard knows who calls. False: the path is open to everybody. Absent: there is no guard."""
_AUDITED = frozenset({Right.DECIDE, Right.OPERATE, Right.ADMIN})

audit = logging.getLogger("perdure.audit")


@dataclass(frozen=True, kw_only=True)
class Permit:
    """Who calls, and what decides."""

    principal: Principal
    namespace: str
    """That the gateway serves."""
    authoriser: Authoriser | None = None

    async def allows(self, asked: Asked) -> bool:
        """Whether it may be done."""
        if self.authoriser is not None:
            verdict = await self.authoriser(self.principal, asked)
            if verdict is not None:
                return verdict
        return self.principal.may(asked)


def permit_of(request: Request, settings: Settings) -> Permit:
    """Raises Refused if there is none although somebody asks for credentials: the settings, or a guard's authenticator.

    Then the application has no guard, or the guard has let the request pass as one that anybody may send (open_paths).
    """
    state = request.scope.get("perdure", {})
    found: Permit | None = state.get(PERMIT)
    if found is not None:
        return found
    if state.get(IS_TRUSTED) is False:
        raise Refused(
            401,
            "unauthorized",
            "a valid credential is missing: this path is open to everybody, but what it asks for is not",
        )
    if settings.has_credentials:
        raise Refused(
            401,
            "unauthorized",
            "credentials are configured, but nothing in this application checks them: "
            "`app.add_middleware(perdure.api.Guard, settings=...)`",
        )
    return Permit(principal=LOCAL, namespace=settings.namespace)


async def permit(  # noqa: PLR0917 - what is asked, in the order of the words
    request: Request, settings: Settings, right: Right, type_name: str, member: str = WHOLE, key: str = ""
) -> Principal:
    """Who calls, if it may. Raises Refused (403, the same whether there is such a thing or not)."""
    found = permit_of(request, settings)
    return await permit_any(request, found, Asked(found.namespace, type_name, member, key, right))


async def permit_any(request: Request, found: Permit, asked: Asked, *others: Asked) -> Principal:
    """Who calls, if it may do one of these. Logs and names the first. Raises Refused (403)."""
    is_allowed = False
    for one in (asked, *others):
        is_allowed = is_allowed or await found.allows(one)
    if asked.right in _AUDITED:
        audit.log(
            logging.INFO if is_allowed else logging.WARNING,
            "%s %r: %s %s of %r in %s, request %s",
            "allowed" if is_allowed else "refused",
            found.principal.name,
            request.method,
            f"{asked.member}:{asked.right}"[:200],
            f"{asked.type}/{asked.key}"[:700],
            asked.namespace,
            request_id(request),
        )
    if not is_allowed:
        raise Refused(403, "forbidden", f"{found.principal.name} has no grant for {str(asked)[:200]}")
    return found.principal


def principal_of(request: Request) -> Principal:
    """Who calls, as a FastAPI dependency: `caller: Annotated[Principal, Depends(principal_of)]`.

    Raises Refused (401) in an application without a guard.
    """
    found: Permit | None = request.scope.get("perdure", {}).get(PERMIT)
    if found is None:
        raise Refused(401, "unauthorized", "nothing in this application checks who calls: add perdure.api.Guard")
    return found.principal


def operator_of(principal: Principal, said: str) -> str:
    """Whom the history names: the credential's owner; only where there are no credentials, what the body says."""
    return principal.name if principal.is_authenticated else said
