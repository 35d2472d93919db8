"""`perdure worklist …`: decisions of people that workflows wait for. Listing works while no host runs."""

from typing import Annotated
from urllib.parse import quote

import typer

from .gateway import Gateway
from .look import After, Limit
from .options import Key, Operator, Output, Reason, Url, value_of, why
from .output import Format
from .whole import TypeName, listed

COLUMNS = ("due_at", "group", "entity", "title", "show", "id")

DecisionId = Annotated[str, typer.Argument(help="Of the decision, as the list has it.", show_default=False)]


def list_(
    *,
    group: Annotated[str, typer.Option(help="Only what is put to this group.")] = "",
    type_name: TypeName = "",
    limit: Limit = 50,
    after: After = "",
    url: Url = "",
    output: Output = Format.TABLE,
) -> None:
    """List the decisions that workflows wait for, and that you may take.

    Example: perdure worklist list --group underwriting
    """
    listed("/worklist", "decisions", COLUMNS, url, output, limit, after, group=group, type=type_name)


def decide(
    decision_id: DecisionId,
    value: Annotated[str, typer.Argument(help="The answer: JSON, or else text.", show_default=False)],
    *,
    reason: Reason = "",
    operator: Operator = "",
    idempotency_key: Key = "",
    url: Url = "",
) -> None:
    """Take a decision.

    Example: perdure worklist decide hKRMb2Fu… '{"outcome": "approve"}' --reason "papers are complete"
    """
    body = {"value": value_of(value)} | why(reason, operator)
    with Gateway(url) as gateway:
        gateway.post(f"/worklist/{quote(decision_id, safe='')}", body, Idempotency_Key=idempotency_key)
    typer.echo("decided")
