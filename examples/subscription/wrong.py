"""What must not be released: the third release by somebody who forgot `patched`.

Nobody is billed twice by it, nor otherwise than agreed: runs that do not fit are parked, execute nothing, and go on
under the right release. `perdure replay examples.subscription.wrong --dsn ...` says so before the release.
"""

from . import third


class Subscription(third.Subscription, name="Subscription", version=2):
    """The key is the customer."""

    def is_announced(self) -> bool:
        return True
