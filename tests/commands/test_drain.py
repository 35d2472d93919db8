"""`perdure drain`: which host is meant, waiting until it is gone, and what is said if it does not go."""

import asyncio
import shlex
from collections.abc import Callable

import pytest

from perdure.cluster.targets import Targets
from perdure.entities.store.rows import HostRow
from tests.docs.blocks import block

from .conftest import Perdure, Site, told

JSON = ("-o", "json")


@pytest.fixture
def host(site: Site) -> Callable[[str], None]:
    """Register one that nobody runs: it goes when a test says so."""

    def register(name: str) -> None:
        row = HostRow(name, name, "node-7", 1, "active", 0)
        site.run(site.cluster.store.register(row, lease_s=3_600)).result(10)

    return register


async def leave(site: Site, name: str, *, in_order: bool) -> None:
    """As a host does that sees the order, or dies of it."""
    store = site.cluster.store
    async with asyncio.timeout(20):
        while not any(row.incarnation == name and row.status == "draining" for row in await store.hosts()):
            await asyncio.sleep(0.01)
    await (store.retire(name) if in_order else store.fence(name, is_dead=True))


def test_it_waits_until_the_host_is_gone_and_the_audit_knows_why(
    perdure: Perdure, site: Site, host: Callable[[str], None]
) -> None:
    host("aa-1")
    going = site.run(leave(site, "aa-1", in_order=True))
    done = perdure("drain", "aa-1", "--reason", "new disk", "--operator", "ann")
    going.result(10)
    assert done.stdout == "drained: aa-1 has left in order\n"
    assert "ordered out: aa-1; " in done.stderr
    (row,) = told(perdure("audit", "--type", "PerdureHost", "--key", "aa-1", *JSON))["actions"]
    assert (row["action"], row["operator"], row["reason"], row["path"]) == ("drain", "ann", "new disk", "/hosts")
    assert "PerdureHost/aa-1" in perdure("audit", "--action", "drain").stdout


def test_the_lines_of_the_page_on_operations(perdure: Perdure, site: Site, host: Callable[[str], None]) -> None:
    host("0192f3a1-7c4e")
    going = site.run(leave(site, "0192f3a1-7c4e", in_order=True))
    lines = [shlex.split(line, comments=True) for line in block("docs/operations.md", "perdure drain").splitlines()]
    assert [program for program, *_ in lines] == ["perdure", "perdure"]
    listed, drained = [perdure(*words).stdout for _, *words in lines]
    going.result(10)
    assert "0192f3a1-7c4e" in listed
    assert drained == "drained: 0192f3a1-7c4e has left in order\n"


def test_a_host_that_dies_of_it_is_gone_as_well(perdure: Perdure, site: Site, host: Callable[[str], None]) -> None:
    host("bb-1")
    going = site.run(leave(site, "bb-1", in_order=False))
    assert perdure("drain", "bb-1").stdout.startswith("ended: bb-1 did not leave in time or died")
    going.result(10)


def test_the_beginning_of_an_id_will_do_if_only_one_host_begins_so(
    perdure: Perdure, site: Site, host: Callable[[str], None]
) -> None:
    for name in ("cc-1", "cc-2", "cc-21"):
        host(name)
    several = perdure("drain", "cc", "--no-wait", exit_code=2)
    assert "ambiguous_host" in several.stderr
    assert "cc-1, cc-2, cc-21" in several.stderr
    told_of = told(perdure("drain", "cc-2", "--no-wait", *JSON))
    assert told_of["host"]["id"] == "cc-2", "one whole id"
    site.run(site.cluster.store.retire("cc-2")).result(10)
    row = perdure("drain", "cc-2", exit_code=4)
    assert "no_such_host" in row.stderr
    assert "has left in order" in row.stderr
    assert "draining" in perdure("drain", "cc-21", "--no-wait").stdout
    assert told(perdure("drain", "cc-1", "--no-wait", *JSON))["host"]["status"] == "draining"
    site.run(site.cluster.store.retire("cc-21")).result(10)
    assert told(perdure("drain", "cc", "--no-wait", *JSON))["host"]["id"] == "cc-1", "the only one that is left"
    assert "no_such_host" in perdure("drain", "nobody", exit_code=4).stderr


def test_one_that_does_not_go_in_time_is_told_with_what_it_waits_for(
    perdure: Perdure, site: Site, host: Callable[[str], None]
) -> None:
    host("dd-1")
    site.run(site.cluster.store.set_targets(Targets(hosts=7).to_json())).result(10)
    late = perdure("drain", "dd-1", "--timeout", "0", exit_code=7)
    assert "error[still_draining]" in late.stderr
    assert "of the 7 hosts that are wanted are active" in late.stderr
