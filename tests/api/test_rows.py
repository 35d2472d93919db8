"""Every row of the table of bad HTTP input (B1-B52): the tests that show its answer, or why it cannot be
asked, or that it is not built.

The rows are those of the reliability reference; what the answers are is in docs/api.md and in the tests named here.
"""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent

SHOWN: dict[str, tuple[str, ...]] = {
    "B1 not JSON": (
        "test_bodies.test_what_parsers_read_differently_is_refused",
        "test_bodies.test_bad_json_says_where",
    ),
    "B2 content type": ("test_bodies.test_a_body_that_is_not_declared_as_json_is_refused",),
    "B3 not UTF-8": ("test_bodies.test_what_parsers_read_differently_is_refused",),
    "B4 NaN, Infinity": ("test_bodies.test_what_parsers_read_differently_is_refused",),
    "B5 duplicate keys": ("test_bodies.test_what_parsers_read_differently_is_refused",),
    "B6 NUL": ("test_bodies.test_nul_says_where",),
    "B7 lone surrogates": ("test_bodies.test_damaged_json_passes_or_is_refused_in_our_words",),
    "B8 long integers": ("test_bodies.test_what_parsers_read_differently_is_refused",),
    "B9 nesting": ("test_bounds.test_hostile_json_is_refused_in_linear_time",),
    "B10 too large": (
        "test_bodies.test_a_chunked_body_over_the_limit_is_not_read_to_its_end",
        "test_serve.test_a_large_body_is_refused_before_it_is_sent",
    ),
    "B11 compressed": ("test_bodies.test_compressed_bodies_are_refused",),
    "B12 slow body": (
        "test_serve.test_a_slow_body_is_refused_after_a_while",
        "test_sockets.test_a_slow_head_is_refused_after_a_while",
        "test_sockets.test_a_slow_rest_of_a_body_that_nobody_needs_is_not_waited_for",
    ),
    "B13 unknown type": ("test_routing.test_unknown_type_names_close_ones",),
    "B14 unknown handler": ("test_routing.test_unknown_handler_names_close_ones",),
    "B15 private handler": ("test_routing.test_what_is_no_handler_cannot_be_reached",),
    "B16 wrong method": ("test_routing.test_wrong_method_names_the_right_ones",),
    "B17 empty key": ("test_routing.test_unusable_keys_are_refused",),
    "B18 long key": ("test_routing.test_unusable_keys_are_refused",),
    "B19 key and path": (
        "test_routing.test_a_key_is_one_percent_encoded_segment",
        "test_routing.test_dot_segments_are_refused",
        "test_serve.test_dot_segments_reach_nobody",
    ),
    "B20 normal forms": ("test_routing.test_keys_that_differ_only_in_case_or_normal_form_are_different",),
    "B21 arguments": ("test_bodies.test_arguments_that_do_not_fit_name_the_field",),
    "B22 positional": ("test_repeats.test_b22_b23_b24_types_are_taken_literally_at_every_depth",),
    "B23 64 bit": ("test_repeats.test_b22_b23_b24_types_are_taken_literally_at_every_depth",),
    "B24 strictness": (
        "test_repeats.test_b22_b23_b24_types_are_taken_literally_at_every_depth",
        "test_repeats.test_b24_a_type_that_says_it_is_lenient_is",
    ),
    "B25 idempotency keys": (
        "test_exchange.test_unusable_idempotency_keys_are_refused",
        "test_exchange.test_two_idempotency_keys_are_refused",
        "test_repeats.test_b25_edits_take_no_other_keys_than_calls",
    ),
    "B26 same key, other payload": ("test_repeats.test_b26_a_key_used_for_another_payload_has_no_effect",),
    "B27 same key, still running": ("test_repeats.test_b27_a_repeat_while_the_first_still_runs_waits_for_its_outcome",),
    "B28 expired key": ("test_repeats.test_b28_after_the_retention_a_repeat_runs_anew",),
    "B29 start twice": ("test_repeats.test_b29_b30_b31_starting_signalling_and_cancelling_again",),
    "B30 after the end": ("test_repeats.test_b29_b30_b31_starting_signalling_and_cancelling_again",),
    "B31 cancel twice": ("test_repeats.test_b29_b30_b31_starting_signalling_and_cancelling_again",),
    "B32 unknown operation": ("test_repeats.test_b32_tokens_that_mean_nothing_look_alike",),
    "B33 waits": ("test_exchange.test_unusable_waits_are_refused", "test_exchange.test_callers_say_how_long_they_wait"),
    "B34 times": (
        "test_repeats.test_b34_times_that_are_none_or_have_no_zone",
        "test_repeats.test_b34_waits_and_delays_have_bounds",
        "test_repeats.test_b34_b35_b36_schedules_that_never_or_always_are_due",
    ),
    "B35 periods": ("test_repeats.test_b34_b35_b36_schedules_that_never_or_always_are_due",),
    "B36 cron": (
        "test_repeats.test_b34_b35_b36_schedules_that_never_or_always_are_due",
        "test_repeats.test_b36_a_schedule_that_is_right_is_made",
    ),
    "B37 expected version": ("test_repeats.test_b37_versions_and_preconditions",),
    "B38 pages": (
        "test_repeats.test_b38_cursors_belong_to_their_list",
        "test_repeats.test_b38_b39_b40_what_is_no_condition_is_refused",
    ),
    "B39 filters": ("test_repeats.test_b38_b39_b40_what_is_no_condition_is_refused",),
    "B40 sorting": ("test_repeats.test_b38_b39_b40_what_is_no_condition_is_refused",),
    "B43 webhooks": (
        "test_webhooks.test_a_signature_that_is_missing_cut_or_nonsense_is_none",
        "test_webhooks.test_what_is_signed_is_the_body_to_the_byte",
        "test_webhooks.test_an_old_signature_is_a_replay",
        "test_webhooks.test_a_redelivery_does_nothing_twice",
    ),
    "B44 credentials": (
        "test_access.test_without_a_valid_key_nothing_opens",
        "test_access.test_every_route_but_health_needs_a_key",
        "test_sockets.test_a_spoofed_address_is_no_key",
        "test_jwt_tokens.test_any_other_token_opens_nothing",
    ),
    "B47 headers": (
        "test_sockets.test_nothing_of_the_callers_gets_into_our_headers",
        "test_sockets.test_a_hundred_kilobytes_of_headers_are_refused",
        "test_sockets.test_what_could_be_read_as_two_requests_is_none",
    ),
    "B48 limits": (
        "test_exchange.test_a_full_mailbox_is_waited_out_then_told",
        "test_sockets.test_as_many_requests_wait_as_may_and_no_more",
    ),
    "B49 store down": (
        "test_exchange.test_a_lost_database_says_whether_it_may_have_been_applied",
        "test_exchange.test_unavailable_says_when_to_retry",
    ),
    "B50 streams": (
        "test_sockets.test_as_many_requests_wait_as_may_and_no_more",
        "test_sockets.test_nobody_waits_for_a_caller_who_left",
        "test_streams.test_only_so_many_are_open_at_a_time",
        "test_streams.test_an_id_that_is_none_of_the_streams_is_refused",
    ),
    "B51 trace": ("test_exchange.test_a_malformed_trace_is_ignored",),
    "B52 spoofed hosts": (
        "test_access.test_forwarded_headers_change_nothing",
        "test_access.test_foreign_pages_do_not",
        "test_sockets.test_names_that_the_caller_made_up_open_nothing",
    ),
    "S25 limits": ("test_bounds.test_large_wrong_bodies_give_short_answers",),
    "S29 cheap first": ("test_bounds.test_what_is_refused_asks_nobody",),
    "S30 bounded work": (
        "test_bounds.test_hostile_json_is_refused_in_linear_time",
        "test_bounds.test_long_names_give_short_answers",
    ),
}

NOT_APPLICABLE: dict[str, str] = {
    "B41 search attributes": "fields of a class are what is searched by; there are no attributes beside them",
    "B42 callback URLs": "the gateway calls nobody: no request can name an address",
    "B45 tenants": "no request names a tenant or a namespace: a gateway serves one namespace",
    "B46 batches": "one request is one message",
}


def test_every_row_is_shown_or_explained() -> None:
    rows = [name.split()[0] for name in (*SHOWN, *NOT_APPLICABLE)]
    assert len(rows) == len(set(rows))
    assert {row for row in rows if row.startswith("B")} == {f"B{number}" for number in range(1, 53)}


@pytest.mark.parametrize("row", SHOWN)
def test_the_tests_that_are_named_exist(row: str) -> None:
    for name in SHOWN[row]:
        module, _, test = name.partition(".")
        tree = ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
