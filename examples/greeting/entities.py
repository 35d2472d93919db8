"""A greeting that waits, for as long as it takes, until somebody approves it."""

from perdure.entities import Entity, Mailbox, activity, query, workflow


@activity
async def greet(name: str, approver: str) -> str:
    """Talks to the outside world; here it only finds the words."""
    return f"Hello {name}! {approver} said I may greet you."


class Greeting(Entity):
    text: str = ""

    approval = Mailbox(str)
    """The approver's name. It may be sent before anybody waits, and while everything is down."""

    @workflow
    async def run(self, name: str) -> str:
        approver = await self.approval.receive()  # a second or ten years: nothing runs and nothing is held meanwhile
        self.text = await greet(name, approver)
        return self.text

    @query
    async def words(self) -> str:
        return self.text or "not approved yet"
