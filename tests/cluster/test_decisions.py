"""The other pure parts: leases and doubts, the supervisor's plan, back-off, names of processes, routes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.cluster.addresses import HostAddress, process_of
from perdure.cluster.lease import Doubts, LeaseTerms
from perdure.cluster.process import ProcessName, Pulse, pulse, this_machine, this_process
from perdure.cluster.reconcile import Backoff, Observed, plan
from perdure.cluster.routes import RouteTable, decode_routes, encode_routes
from perdure.cluster.targets import Targets
from perdure.entities.store.rows import HostRow, ShardOwner


def host(name: str, *, status: str = "active", lease_us: int = 10, revision: str = "r1") -> HostRow:
    address = HostAddress(f"perdure-host-n-{name}", revision, "m", "1")
    return HostRow(name, str(address), "node", 1, status, lease_us)


# --- lease ---


@given(st.floats(0.1, 60), st.floats(0, 5), st.floats(0, 5))
def test_trust_ends_before_the_lease_in_the_database_can(lease_s: float, asked_at: float, trip_s: float) -> None:
    terms = LeaseTerms(lease_s=lease_s, renewals=4, margin_s=0.2)
    granted_at = asked_at + trip_s  # at the earliest when we asked
    assert terms.trusted_until(asked_at) < granted_at + lease_s


def test_renewals_keep_their_period_however_long_the_answer_takes() -> None:
    terms = LeaseTerms(lease_s=4, renewals=4, margin_s=0.2)
    assert terms.pause_s(asked_at=10, now=10.25, failed=False) == 0.75
    assert terms.pause_s(asked_at=10, now=12, failed=False) == 0
    assert terms.pause_s(asked_at=10, now=10.25, failed=True) == pytest.approx(0.1)


def test_an_expired_lease_is_acted_on_only_after_patience() -> None:
    doubts = Doubts(lease_s=5.0, patience_s=1.0)
    assert doubts.expired([host("a")], database_us=11, now=100.0) == []
    assert doubts.expired([host("a")], database_us=12, now=100.9) == []
    assert doubts.expired([host("a")], database_us=13, now=101.0) == ["a"]


def test_a_renewal_ends_the_doubt() -> None:
    """After a suspended machine wakes up every lease has expired; each host needs a moment to renew."""
    doubts = Doubts(lease_s=5.0, patience_s=1.0)
    assert doubts.expired([host("a")], database_us=11, now=100.0) == []
    assert doubts.expired([host("a", lease_us=50)], database_us=12, now=100.5) == []
    assert doubts.expired([host("a", lease_us=50)], database_us=60, now=101.5) == []
    assert doubts.expired([host("a", lease_us=50)], database_us=61, now=102.5) == ["a"]


def test_a_lease_is_waited_out_although_the_database_clock_was_set_back() -> None:
    """A host that died before an hour's step must not keep its shards for that hour."""
    doubts = Doubts(lease_s=5.0, patience_s=1.0)
    dead = host("a", lease_us=5_000_000)
    assert doubts.expired([dead], database_us=0, now=100.0) == []
    assert doubts.expired([dead], database_us=-3_600_000_000, now=104.9) == []
    assert doubts.expired([dead], database_us=-3_599_000_000, now=105.0) == []  # over; now it has a moment to renew
    assert doubts.expired([dead], database_us=-3_598_000_000, now=106.0) == ["a"]


def test_whoever_renews_is_not_doubted_however_often_the_database_clock_is_set_back() -> None:
    doubts = Doubts(lease_s=5.0, patience_s=1.0)
    for number in range(20):
        database_us = -number * 60_000_000
        lives = host("a", lease_us=database_us + 5_000_000)
        assert doubts.expired([lives], database_us=database_us, now=100.0 + 2.5 * number) == []


def test_a_lease_that_is_longer_than_ours_is_waited_out_in_full() -> None:
    """Of a host of another release, say."""
    doubts = Doubts(lease_s=5.0, patience_s=0.0)
    assert doubts.expired([host("a", lease_us=60_000_000)], database_us=0, now=100.0) == []
    assert doubts.expired([host("a", lease_us=60_000_000)], database_us=-1, now=159.0) == []
    assert doubts.expired([host("a", lease_us=60_000_000)], database_us=-1, now=160.0) == ["a"]


def test_a_lease_seen_first_after_a_step_forward_is_waited_out_in_full() -> None:
    """By the database it is over, for a moment; by the host that trusts it, it has just begun."""
    doubts = Doubts(lease_s=5.0, patience_s=1.0)
    cut_off = host("a", lease_us=5_000_000)
    assert doubts.expired([cut_off], database_us=60_000_000, now=100.0) == []
    assert doubts.expired([cut_off], database_us=1_000_000, now=101.0) == []
    assert doubts.expired([cut_off], database_us=4_000_000, now=104.0) == []


def test_after_an_outage_of_the_database_everybody_has_a_moment_to_renew() -> None:
    """Nobody could renew, and nobody could look: what an observer's own clock says counts from its next look."""
    doubts = Doubts(lease_s=5.0, patience_s=1.0)
    assert doubts.expired([host("a", lease_us=5_000_000)], database_us=0, now=100.0) == []
    assert doubts.expired([host("a", lease_us=5_000_000)], database_us=1, now=200.0) == []
    assert doubts.expired([host("a", lease_us=9_000_000)], database_us=2, now=201.0) == []


def test_hosts_that_are_gone_are_not_doubted() -> None:
    doubts = Doubts(lease_s=5.0, patience_s=0)
    hosts = [host("a", status="fenced"), host("b", status="stopped"), host("c", status="draining")]
    assert doubts.expired(hosts, database_us=11, now=1) == ["c"]


# --- plan ---


def test_missing_hosts_are_started() -> None:
    assert plan(host_count=3, revision="r1", observed=Observed(hosts=[host("a")], spawning=1)).spawn == 1


def test_nothing_is_started_while_backing_off() -> None:
    assert plan(host_count=3, revision="r1", observed=Observed(hosts=[], may_spawn=False)).spawn == 0


def test_the_dead_are_fenced_and_replaced() -> None:
    todo = plan(host_count=2, revision="r1", observed=Observed(hosts=[host("a"), host("b")], dead={"a"}, expired={"a"}))
    assert todo.fence == (("a", True),)
    assert todo.spawn == 1
    assert todo.watch == ("b",)


def test_the_newest_surplus_leaves() -> None:
    todo = plan(host_count=1, revision="r1", observed=Observed(hosts=[host("a"), host("b"), host("c")]))
    assert todo.drain == ("c", "b")


def test_nothing_wanted_drains_all() -> None:
    todo = plan(host_count=0, revision="r2", observed=Observed(hosts=[host("a"), host("b")]))
    assert set(todo.drain) == {"a", "b"}
    assert todo.spawn == 0


@given(st.integers(0, 5), st.integers(0, 5))
def test_a_new_revision_replaces_hosts_one_by_one_without_a_gap(wanted: int, running: int) -> None:
    hosts = {f"a{number}": host(f"a{number}", revision="old") for number in range(running)}
    lowest = highest = len(hosts)
    for step in range(50):
        todo = plan(host_count=wanted, revision="new", observed=Observed(hosts=list(hosts.values())))
        for name in todo.drain:
            del hosts[name]
        for number in range(todo.spawn):
            name = f"b{step}-{number}"
            hosts[name] = host(name, revision="new")
        lowest, highest = min(lowest, len(hosts)), max(highest, len(hosts))
    assert [HostAddress.parse(row.address).revision for row in hosts.values()] == ["new"] * wanted
    assert lowest >= min(wanted, running)
    assert highest <= max(wanted + 1 if wanted else 0, running)


def test_whoever_is_ordered_out_waits_for_its_successor() -> None:
    """Also while backing off, and although it is the only one: what serves is not taken away."""
    for observed in (
        Observed(hosts=[host("a", status="draining")]),
        Observed(hosts=[host("a", status="draining")], spawning=1),
        Observed(hosts=[host("a", status="draining")], may_spawn=False),
    ):
        todo = plan(host_count=1, revision="r1", observed=observed)
        assert todo.drain == ()
        assert todo.spawn == (observed.may_spawn and not observed.spawning)
        assert todo.watch == ("a",)
    todo = plan(host_count=1, revision="r1", observed=Observed(hosts=[host("a", status="draining"), host("b")]))
    assert (todo.drain, todo.spawn) == (("a",), 0)


def test_each_newcomer_lets_one_go_the_oldest_first() -> None:
    out = [host(name, status="draining") for name in "cab"]
    for newcomers, leaving in ((0, ()), (1, ("a",)), (2, ("a", "b")), (3, ("a", "b", "c"))):
        hosts = [*out, *(host(f"n{number}") for number in range(newcomers))]
        todo = plan(host_count=3, revision="r1", observed=Observed(hosts=hosts))
        assert (todo.drain, todo.spawn) == (leaving, 3 - newcomers)


def test_whoever_drains_is_asked_again_by_whoever_is_supervisor_then() -> None:
    """`up` has replaced it and its supervisor is gone: it may hang, so somebody has to wait for it, and end it."""
    hosts = [host("a", status="draining", revision="old"), host("b", revision="new")]
    assert plan(host_count=1, revision="new", observed=Observed(hosts=hosts)).drain == ("a",)


def test_where_no_host_is_wanted_nobody_waits_for_a_successor() -> None:
    hosts = [host("a", status="draining"), host("b", status="draining"), host("c")]
    todo = plan(host_count=0, revision="r1", observed=Observed(hosts=hosts))
    assert (set(todo.drain), todo.spawn) == ({"a", "b", "c"}, 0)


def test_one_that_was_ordered_out_and_died_is_fenced_not_drained() -> None:
    hosts = [host("a", status="draining"), host("b")]
    todo = plan(host_count=1, revision="r1", observed=Observed(hosts=hosts, dead={"a"}))
    assert (todo.fence, todo.drain, todo.watch) == ((("a", True),), (), ("b",))


@given(st.integers(1, 4), st.lists(st.integers(0, 9), max_size=4), st.booleans(), st.integers(0, 12))
def test_orders_empty_the_named_hosts_and_what_serves_is_always_enough(
    wanted: int, ordered: list[int], has_new_release: bool, starts_fail: int
) -> None:
    """Whatever is ordered, also in the middle of a new release, and while hosts do not start."""
    hosts = {f"a{number}": host(f"a{number}", revision="old") for number in range(wanted)}
    revision = "new" if has_new_release else "old"
    orders = {f"a{number % wanted}" for number in ordered}
    for step in range(60):
        if step == 1:
            hosts |= {name: hosts[name]._replace(status="draining") for name in orders & hosts.keys()}
        todo = plan(
            host_count=wanted,
            revision=revision,
            observed=Observed(hosts=list(hosts.values()), may_spawn=step >= starts_fail),
        )
        for name in todo.drain:
            del hosts[name]
        for number in range(todo.spawn):
            name = f"b{step:02}-{number}"
            hosts[name] = host(name, revision=revision)
        assert len(hosts) >= wanted
        assert sum(row.status == "active" for row in hosts.values()) <= wanted + 1
    assert not orders & hosts.keys()
    assert len(hosts) == wanted


def test_backoff_doubles_and_is_forgotten() -> None:
    backoff = Backoff(initial_s=1, max_s=5)
    assert [backoff.failed(10), backoff.failed(10), backoff.failed(10), backoff.failed(10)] == [1, 2, 4, 5]
    assert not backoff.is_over(14.9)
    assert backoff.is_over(15)
    backoff.succeeded()
    assert backoff.is_over(0)
    assert backoff.failed(0) == 1
    assert [backoff.failed(0, at_most_s=1.5) for _ in range(3)] == [1.5, 1.5, 1.5], "after accidents it stays short"


# --- processes ---


def test_a_process_is_gone_only_when_it_is() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        name = ProcessName(this_machine(), child.pid, stat[19])
        assert pulse(name) is Pulse.ALIVE
        assert pulse(name._replace(started="1")) is Pulse.GONE, "another process has the number now"
        assert pulse(name._replace(machine="elsewhere")) is Pulse.UNKNOWN
        child.kill()
        until = time.monotonic() + 5
        while pulse(name) is Pulse.ALIVE and time.monotonic() < until:
            time.sleep(0.01)
        assert pulse(name) is Pulse.GONE, "a zombie will do nothing any more"
    assert pulse(name) is Pulse.GONE


def test_this_process_is_alive() -> None:
    assert this_process().pid == os.getpid()
    assert pulse(this_process()) is Pulse.ALIVE


def test_addresses_survive_their_text() -> None:
    process = this_process()
    address = HostAddress("perdure-host-n-a", "r1", process.machine, process.started)
    row = HostRow("a", str(address), "node", process.pid, "active", 0)
    assert HostAddress.parse(row.address) == address
    assert process_of(row) == process
    assert HostAddress.parse("just-an-actor").actor == "just-an-actor"
    assert pulse(process_of(row._replace(address="just-an-actor"))) is Pulse.UNKNOWN


# --- routes and targets ---


def test_only_living_hosts_are_routes() -> None:
    owners = [ShardOwner(0, "a", 2), ShardOwner(1, "b", 3), ShardOwner(2, "", 1)]
    table = RouteTable.of(owners, [host("a"), host("b", status="fenced"), host("c", status="draining")])
    assert table.owners == ["a", "", ""]
    assert table.actors == {"a": "perdure-host-n-a", "c": "perdure-host-n-c"}
    assert table.stamp == 6
    assert not table.is_complete
    assert decode_routes(encode_routes("v", table)) == ("v", table)


def test_the_number_of_hosts_is_no_new_revision() -> None:
    targets = Targets(hosts=1, entities=("m:A",))
    assert targets.revision == targets.model_copy(update={"hosts": 5}).revision
    assert targets.revision != targets.model_copy(update={"release": "2"}).revision
    assert Targets.from_json(targets.to_json()) == targets
    assert Targets.from_json(None) is None
