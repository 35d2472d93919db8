"""Who calls, and what they may do: pure values.

A *grant* is a line such as `Order.pick_up:call`: a type, a member of it, and rights. `*` stands for any type or member;
`Order:read` is short for `Order.*:read`. `shop/Order:read` holds in the namespace `shop` only. Whatever no grant allows
is refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self

SUBJECT_CHARS_MAX = 200
WHOLE = "-"
"""Stands for the member where an entity is meant as a whole: its history, its past states, edits of its state."""
ANY = "*"


class Right(StrEnum):
    """What may be done."""

    CALL = "call"
    """Handlers, mailboxes, starts of workflows; completing activities by their token."""
    READ = "read"
    """Queries and results of workflows; of whole entities their state, history and export."""
    LIST = "list"
    """Search entities by fields."""
    DECIDE = "decide"
    """See and take the decisions that are put to a group: `Loan.underwriting:decide`."""
    OPERATE = "operate"
    """What people do to runs, states and dead letters."""
    ADMIN = "admin"
    """All of it, and Perdure's own entities (schedules, events), which send to whomever they are told to."""


class Asked(NamedTuple):
    """What a request is about to do."""

    namespace: str
    type: str
    """`*`: entities of all types at once."""
    member: str
    """`-`: the entity as a whole."""
    key: str
    """Empty where no single entity is meant."""
    right: Right

    def __str__(self) -> str:
        return f"{self.type}.{self.member}:{self.right}"


_GRANT = re.compile(
    r"(?:(?P<namespace>[A-Za-z_]\w*)/)?(?P<type>\*|[^\W\d]\w*)(?:\.(?P<member>\*|-|[^\W\d]\w*))?"
    r":(?P<rights>[a-z]+(?:,[a-z]+)*)"
)


class Grant(NamedTuple):
    """A line that allows something."""

    namespace: str
    """Empty: in whichever the gateway serves."""
    type: str
    member: str
    rights: frozenset[Right]

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `[namespace/]Type[.member]:right[,right]`. Raises ValueError."""
        found = _GRANT.fullmatch(text.strip())
        rights = found["rights"].split(",") if found else []
        known = [right.value for right in Right]
        if found is None or any(right not in known for right in rights):
            raise ValueError(
                f"{text[:100]!r} is no grant; write `Type.member:right`, for example `Order.pick_up:call`, "
                f"`Order.*:call,read` or `*:read`. Rights: {', '.join(known)}"
            )
        return cls(found["namespace"] or "", found["type"], found["member"] or ANY, frozenset(map(Right, rights)))

    def allows(self, asked: Asked) -> bool:
        """Whether this line covers it."""
        return (
            (asked.right in self.rights or Right.ADMIN in self.rights)
            and self.type in (ANY, asked.type)
            and self.member in (ANY, asked.member)
            and self.namespace in ("", asked.namespace)
        )


def grants_of(texts: Iterable[str]) -> tuple[Grant, ...]:
    """Raises ValueError."""
    return tuple(map(Grant.parse, texts))


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Whoever calls, as a credential says."""

    subject: str
    """A name, for authorisers. Printable, up to 200 characters."""
    origin: str = ""
    """Who gave it that name, where it was not this gateway's own configuration: `token` for the `sub` of a JWT."""
    grants: tuple[Grant, ...] = ()
    namespace: str = ""
    """The only one in which the credential is good; empty: its grants decide."""
    is_authenticated: bool = True
    """False: a program on this machine, at a gateway without credentials."""
    claims: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """Of its JWT: for an authoriser of your own."""

    def __post_init__(self) -> None:
        if not 0 < len(self.subject) <= SUBJECT_CHARS_MAX or not self.subject.isprintable():
            raise ValueError(f"a subject is 1 to {SUBJECT_CHARS_MAX} printable characters")

    @property
    def name(self) -> str:
        """Whom histories and the audit log name, such as `shop` and `token:ann`.

        A token's subject can be any text, so it must not pass for a client of that name.
        """
        return f"{self.origin}:{self.subject}" if self.origin else self.subject

    def may(self, asked: Asked) -> bool:
        """Whether one of the grants allows it."""
        return any(grant.allows(asked) for grant in self.grants)

    def may_see(self, namespace: str, type_name: str) -> bool:
        """Whether any grant is about this type: else it does not even exist for the caller."""
        return any(grant.type in (ANY, type_name) and grant.namespace in ("", namespace) for grant in self.grants)


FROM_JWT = "token"
"""Origin of subjects of JWTs."""
EVERYTHING = grants_of(["*:admin"])
LOCAL = Principal(subject="local", grants=EVERYTHING, is_authenticated=False)
"""A program on this machine."""
