"""What must not be released: the third release by somebody who thought that no journal of before was left.

`deprecate_patch` came too early. Nobody is billed twice by that, nor otherwise than agreed: a run with an older journal
is parked, executes nothing, and goes on under the right release. `perdure replay examples.subscription.wrong --dsn ...`
says so before.
"""

from perdure.entities import deprecate_patch

from . import third


class Subscription(third.Subscription, name="Subscription", version=2):
    """The key is the customer."""

    def is_announced(self) -> bool:
        deprecate_patch("announced")
        return True
