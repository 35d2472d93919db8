"""A gateway, as the command line sees it: requests out, JSON back, problems as one line and an exit code."""

import os
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote

import httpx

from ..exits import Exit, exit_of
from ..failures import Failure
from ..settings import API_KEY, URL

DEFAULT_URL = "http://127.0.0.1:8000"
PATIENCE_S = 5.0
"""How much longer than the gateway may take the command waits for it."""


class Gateway:
    """One gateway. Use it as a context."""

    def __init__(
        self, url: str = "", *, api_key: str = "", timeout_s: float = 30.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Empty `url` and `api_key`: those of the environment (PERDURE_URL, PERDURE_API_KEY), else this machine's."""
        self.url = (url or os.environ.get(URL) or DEFAULT_URL).rstrip("/")
        key = api_key or os.environ.get(API_KEY, "")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_s + PATIENCE_S,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Any:
        """The JSON at `path`. Parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._ask("GET", path, parameters=given)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """The answer to a JSON body. Header names are written with underscores."""
        return self._ask("POST", path, body={} if body is None else body, headers=headers)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        sent = {name.replace("_", "-"): value for name, value in (headers or {}).items() if value}
        try:
            answer = self._http.request(
                method, path, params=parameters, headers=sent, **({} if method == "GET" else {"json": body})
            )
        except httpx.TimeoutException:
            raise Failure(
                "no_answer", f"{self.url} did not answer in time; what was asked may or may not be done", Exit.TIMEOUT
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Failure(
                "gateway_unreachable",
                f"no gateway at {self.url}: {error} (start one with `perdure dev`, or name it with --url or {URL})",
                Exit.UNREACHABLE,
            ) from None
        if answer.status_code >= 400:
            raise _problem(answer)
        if method == "GET" and answer.status_code == 202:
            raise Failure(
                "still_running", "it has not ended yet; ask again later, or with a longer --timeout", Exit.TIMEOUT
            )
        return answer.json() if answer.content else None


def _problem(answer: httpx.Response) -> Failure:
    try:
        told = answer.json()
    except ValueError:
        told = {}
    if not isinstance(told, dict) or "code" not in told:
        return Failure("bad_gateway", f"{answer.request.url} answered {answer.status_code}", Exit.OTHER)
    fields = "; ".join(
        f"{e.get('field') or 'body'}: {e['message']}" for e in told.get("errors") or () if "message" in e
    )
    close = ", ".join(map(str, told.get("suggestions") or ()))
    detail = str(told.get("detail") or told.get("title"))
    text = (
        detail + (f" ({fields})" if fields and fields not in detail else "") + (f" (there is {close})" if close else "")
    )
    return Failure(str(told["code"]), text, exit_of(str(told["code"]), answer.status_code))


def entity_path(address: str, *below: str) -> str:
    """The path of `Type/key`, percent-encoded. Raises Failure if it is no address."""
    type_name, slash, key = address.partition("/")
    if not slash or not type_name or not key:
        raise Failure(
            "bad_address", f"{address!r} is no entity; write Type/key, for example Order/order-42", Exit.USAGE
        )
    return "/".join(("/entities", quote(type_name, safe=""), quote(key, safe=""), *below))


def type_path(type_name: str) -> str:
    """The path of all entities of a type."""
    return f"/entities/{quote(type_name, safe='')}"
