"""What one falls into when meeting FastChat's and TinyChat's real peers, and the tests that hold that we do not.

Each names what a naive node would do; the tests fail on that.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TRAPS = {
    # Any status but 200, and FastChat's API server keeps the error's text for the model's template, for good.
    "a template is refused with a status": (
        "relay/upstream/test_translating.py::test_a_workers_refusal_of_what_only_workers_serve_has_status_200",
        "relay/upstream/test_translating.py::test_a_worker_that_breaks_there_is_an_object_too",
        "relay/test_paths.py::test_a_model_that_nobody_serves_in_each_dialect",
        "compat/test_falling_in.py::test_a_worker_that_was_away_leaves_no_template_behind",
    ),
    # Readers of streams never look at the status: an error that is no frame is no error to them.
    "a stream's error is a status": (
        "whole/test_fastchat_peers.py::test_errors_on_fastchat_paths_are_frames_under_status_200",
        "relay/upstream/test_translating.py::test_an_engines_refusal_is_a_frame",
        "compat/test_falling_in.py::test_a_reader_of_streams_shows_our_error",
    ),
    # They give up after 100 s, or 10, without a byte; an empty frame is one, and means nothing.
    "a slow first token loses the reader": (
        "relay/test_retry.py::test_fastchats_clients_get_a_lone_nul",
        "compat/test_falling_in.py::test_signs_of_life_are_read_over",
    ),
    # Compressed, or with a length, `requests` shows a stream in blocks of 512 bytes.
    "a stream comes in blocks": (
        "compat/test_below.py::test_a_stream_is_chunked_and_never_compressed",
        "compat/test_falling_in.py::test_each_frame_arrives_when_it_was_sent",
    ),
    # GET /v1/models of FastChat's API server refreshes all workers each time.
    "a refresh empties the table, or waits": (
        "compat/test_below.py::test_asking_for_the_models_refreshes_all_workers_and_never_empties_the_table",
        "whole/test_fastchat_peers.py::test_refreshing_never_empties_the_table",
    ),
    # The client dials the address that it is given, which across subnets must be this node's own.
    "an address that the client cannot dial": (
        "whole/test_links.py::test_get_worker_address_is_this_node_s_own_for_a_child_that_cannot_be_dialled",
        "whole/test_fastchat_peers.py::test_a_node_may_give_its_own_address",
        "compat/test_falling_in.py::test_a_client_of_another_subnet_is_given_the_roots_address",
        "api/test_fastchat.py::test_the_address_is_this_nodes_own_where_the_child_alone_would_not_do",
    ),
    # TinyChat's workers know two paths, echo the prompt, and stand still until a beat is answered.
    "a beat waits for its own worker": (
        "compat/test_tinychat.py::test_a_beat_waits_for_nothing_of_the_same_worker",
        "compat/test_tinychat.py::test_whoever_has_its_address_does_not_wait_while_it_registers_again",
        "compat/test_tinychat.py::test_openais_clients_get_completions_without_the_echo",
        "relay/upstream/test_translating.py::test_a_worker_without_a_template_gets_whole_prompts_and_echoes_them",
    ),
    # Multi-model workers share one address, each registers only its own models, and all of it before they listen.
    "a second registration replaces the first": (
        "compat/test_returning.py::test_models_that_register_each_for_itself_at_one_address",
        "compat/test_below.py::test_workers_that_share_an_address_and_one_that_registers_anew",
        "compat/test_falling_in.py::test_a_worker_that_says_nothing_before_it_listens_is_asked_until_it_does",
        "compat/test_tinychat.py::test_it_registers_before_it_listens",
    ),
    # Workers lose places of their semaphore on errors, so that what they report is too much, or comes too late.
    "a reported queue is all that counts": (
        "registry/test_child.py::test_a_queue_that_sticks_low_does_not_hide_our_leases",
        "compat/test_falling_in.py::test_a_queue_that_sticks_high_is_not_all_that_is_looked_at",
        "registry/test_child.py::test_a_queue_that_sticks_high_does_not_grow_with_our_leases",
    ),
    # Original workers beat every 45 s, and stay for 90.
    "a worker falls silent after three seconds": (
        "registry/test_registry.py::test_a_worker_registers_beats_and_expires_on_fastchats_terms",
        "compat/test_falling_in.py::test_our_terms_are_theirs",
        "compat/test_returning.py::test_fastchats_controller_expires_others_and_not_us",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_each_trap_has_its_tests(trap: str) -> None:
    for name in TRAPS[trap]:
        file, _, function = name.partition("::")
        found = ast.parse((TESTS / file).read_text()).body
        assert function in {part.name for part in found if isinstance(part, ast.FunctionDef)}, name
