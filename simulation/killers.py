"""Which tests of the suite kill which mutant (`python -m simulation.kill --tests`); M1 to M8 on Postgres, too."""

import re
import subprocess
import sys
from collections.abc import Sequence

ENGINE = "tests/engine"
PROMISES = "tests/store/test_promises.py::test_whatever_happens_to_a_commit_all_is_applied_once"
HANDED_OUT = (
    f"{ENGINE}/test_p6_reminders.py::test_what_was_handed_out_does_not_fire_after_its_cancellation_or_replacement"
)
REMINDERS = (
    "tests/store/test_promises.py::test_a_reminder_fires_neither_after_its_cancellation_nor_by_the_clock_of_the_host"
)

KILLERS: dict[str, tuple[str, ...]] = {
    "M1": (
        f"{ENGINE}/test_transaction_faults.py::test_lost_on_the_way[request-release]",
        "tests/store/test_commit.py::test_version_mismatch_writes_nothing_at_all[postgres-1]",
    ),
    "M2": (
        f"{ENGINE}/test_p1_exactly_once.py::test_a_one_way_message_with_a_key_is_applied_once",
        f"{PROMISES}[crash before]",
    ),
    "M3": (
        f"{ENGINE}/test_crash_points.py::test_every_crash_point_leads_to_the_same_end[one host]",
        f"{PROMISES}[crash after]",
    ),
    "M4": (
        HANDED_OUT,
        REMINDERS,
    ),
    "M5": (
        f"{ENGINE}/test_p1_exactly_once.py::test_a_failed_commit_applies_nothing_twice[Fault.AFTER]",
        f"{PROMISES}[answer lost]",
    ),
    "M6": (
        f"{ENGINE}/test_p1_exactly_once.py::test_crashes_under_load_apply_everything_once[Fault.CRASH_BEFORE]",
        f"{PROMISES}[crash before]",
    ),
    "M7": (
        f"{ENGINE}/test_p6_reminders.py::test_it_is_the_database_that_says_what_is_due",
        REMINDERS,
    ),
    "M8": (
        f"{ENGINE}/test_p1_exactly_once.py::test_a_failed_commit_applies_nothing_twice[Fault.AFTER]",
        f"{PROMISES}[answer lost]",
    ),
    "M9": ("tests/store/test_directory.py::test_host_that_is_gone_cannot_renew_or_claim[memory-fenced]",),
    "M10": (f"{ENGINE}/test_p10_passivation.py::test_what_is_not_written_yet_does_not_leave_memory",),
    "M11": ("tests/store/test_directory.py::test_owned_shard_is_not_for_others_until_it_is_released[memory]",),
    "M12": (f"{ENGINE}/test_p1_exactly_once.py::test_a_key_is_scoped_by_handler_and_entity",),
    "M13": (f"{ENGINE}/test_continue_as_new.py::test_what_waits_in_a_mailbox_outlives_the_run",),
    "M14": (f"{ENGINE}/test_p9_killers.py::test_a_stored_killer_is_dead_lettered_and_innocents_are_applied_once[1]",),
    "M15": (f"{ENGINE}/test_p1_exactly_once.py::test_a_message_whose_wake_up_got_lost_is_found",),
    "M16": ("tests/store/test_reads.py::test_prune_never_touches_what_is_still_needed[memory]",),
    "M17": (f"{ENGINE}/test_p1_exactly_once.py::test_the_same_key_after_a_crash_gives_the_first_outcome",),
    "M18": (f"{ENGINE}/test_p8_queries.py::test_a_query_that_changes_state_is_undone_and_refused[spend_in_a_query]",),
    "M19": (f"{ENGINE}/test_p5_order.py::test_messages_of_an_entity_keep_their_order_over_turns",),
    "M20": (f"{ENGINE}/test_p1_exactly_once.py::test_money_is_conserved_over_crashes",),
    "N1": (f"{ENGINE}/test_p4_single_writer.py::test_a_zombie_host_cannot_commit",),
    "N2": (f"{ENGINE}/test_p3_output_gate.py::test_a_query_that_sees_uncommitted_state_waits_for_its_commit[total]",),
    "N3": (f"{ENGINE}/test_p4_single_writer.py::test_whoever_is_in_a_batch_with_a_conflict_loses_nothing",),
    "N4": (f"{ENGINE}/test_p1_exactly_once.py::test_repeats_while_the_first_is_running_wait_for_its_outcome",),
    "N5": ("tests/cluster/test_exchange.py::test_requests_of_a_dead_host_go_to_its_heir_with_the_same_ids",),
    "N6": ("tests/cluster/test_exchange.py::test_not_owner_is_followed_to_the_new_owner",),
    "N7": ("tests/cluster/test_exchange.py::test_calls_that_overtake_each_other_are_put_in_order",),
    "N8": (f"{ENGINE}/test_p6_reminders.py::test_catching_up_after_downtime[one-1]",),
    "N9": ("tests/kit/test_crash_everywhere.py::test_every_commit_and_attempt_is_a_point[1-False]",),
    "N10": (f"{ENGINE}/test_transaction_faults.py::test_lost_on_the_way[request-release]",),
    "N11": (f"{ENGINE}/test_workflows.py::test_an_alias_keeps_its_value_after_crashes_alike[kept]",),
    "N12": (f"{ENGINE}/test_p4_single_writer.py::test_a_host_whose_lease_ran_out_answers_no_query",),
    "N13": (f"{ENGINE}/test_p2_atomic_turns.py::test_a_handler_that_raises_changes_nothing",),
    "N14": (HANDED_OUT,),
    "N15": (f"{ENGINE}/test_p5_order.py::test_what_waits_behind_a_failing_message_of_the_same_sender_keeps_its_order",),
}


def surviving(mutant: str, tests: Sequence[str]) -> list[str]:
    """Those of these tests that pass although the bug is there. Raises RuntimeError if one could not be run."""
    options = ["-q", "-rA", "--timeout=60", "-p", "no:cacheprovider", "-p", "no:randomly", f"--mutant={mutant}"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ends = re.findall(r"^(PASSED|FAILED) (.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    outcomes = {test: what for what, test in ends}
    if done.returncode not in (0, 1) or not outcomes.keys() >= set(tests):
        raise RuntimeError(f"{', '.join(tests)} could not be run:\n{done.stdout[-2_000:]}")
    return [test for test in tests if outcomes[test] == "PASSED"]
