"""The blocks of the documentation that bring a cluster up, with other names and fewer hosts."""

from typing import Any

import pytest

from perdure.entities import EncryptionCodec, EntityId
from tests.docs.blocks import block, walked

from .conftest import World
from .counter import Counter

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.xdist_group("cluster")]


def codec() -> EncryptionCodec:
    """The keys of the page come from the environment, which the Ray of these tests does not have."""
    return EncryptionCodec({"k1": bytes(32)})


def here(text: str, world: World) -> str:
    """The block with what there is here."""
    changes = {
        "shop.entities:Order": "tests.cluster.counter:Counter",
        "hosts=8": "hosts=1",
        ', namespace="shop"': "",
        "dsn=DSN": f"dsn={world.dsn!r}, namespace={world.namespace!r}",
        "perdure.entities.encryption:from_environment": f"{__name__}:codec",
    }
    for shown, actual in changes.items():
        text = text.replace(shown, actual)
    return text


async def test_a_cluster_goes_up_and_down(world: World) -> None:
    text = here(block("docs/operations.md", "import up, down"), world)
    async for line in walked(text, {}):
        if line.startswith("await down"):
            await world.connect()
            assert await Counter.ref("c").add(3) == 3
    assert await world.hosts() == []


async def test_a_cluster_with_a_codec(world: World) -> None:
    space: dict[str, Any] = {}
    async for _ in walked(here(block("docs/encryption.md", "client = await connect"), world), space):
        pass
    world.clients.append(space["client"])
    assert await Counter.ref("c").add(3) == 3
    snapshot = await world.store.archive().snapshot(EntityId("Counter", "c"))
    assert snapshot is not None
    assert b'"value"' not in snapshot.state, "encrypted"
