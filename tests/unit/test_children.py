"""What a start says about parents and notices, on the wire and in rows."""

import msgspec
import pytest

from perdure.cluster.dedicated import wire
from perdure.entities.engine.children import StartOptions, adopt, closing, reply_address
from perdure.entities.ids import EntityId
from perdure.entities.messages import Kind
from perdure.entities.store.rows import Batch, Child, EntityWrite, RunRow, RunStatus

P = EntityId("Order", "a/b#c,d")


@pytest.mark.parametrize(
    ("options", "on_the_wire", "child"),
    [
        ("", "", None),
        ("restart", "restart", None),
        ("notify=finished/1", "notify=finished/1", None),
        ("parent_close=cancel", "parent=run/r1/0", Child("run/r1/0", "Order/x#run", "cancel")),
        ("restart,parent_close=terminate", "restart,parent=run/r1/0", Child("run/r1/0", "Order/x#run", "terminate")),
    ],
)
def test_a_policy_stays_with_the_parent_and_the_child_learns_who_started_it(
    options: str, on_the_wire: str, child: Child | None
) -> None:
    assert adopt(options, "run/r1/0", "Order/x#run") == (on_the_wire, child)
    assert not StartOptions.parse(on_the_wire).parent_close


def test_unknown_options_of_newer_senders_are_ignored() -> None:
    assert StartOptions.parse("restart,new=1,newer") == StartOptions(restart=True)


def test_keys_may_hold_anything() -> None:
    found = closing(P, Child("run/r1/7", f"{P}#go", "terminate"))
    assert (found.target, found.kind, found.workflow, found.id) == (P, Kind.TERMINATE, "go", "run/r1/7:close")
    assert msgspec.json.decode(found.args)["parent"] == f"{P}#run/r1/7"
    assert reply_address(P, "restart,notify=finished/t1") == f"{P}#!finished/t1"
    assert reply_address(P, "restart") == ""


def test_rows_with_children_reach_a_dedicated_actors_host() -> None:
    row = RunRow("run", "r1", RunStatus.RUNNING, b"{}", b"", 1, children=(Child("run/r1/0", "A/b#c", "cancel"),))
    write = EntityWrite(entity=P, shard=0, expected_version=0, version=1, state=b"{}", runs=[row])
    decoded = wire.BATCH.decode(wire.encode(Batch(incarnation="h", epochs={0: 1}, writes=[write])))
    assert decoded.writes[0].runs == [row]
