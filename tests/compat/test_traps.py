"""Mistakes that a node could easily make with FastChat's and TinyChat's programs, and the tests that prevent them.

Each entry names the mistake; its tests fail on it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TRAPS = {
    # With any status but 200, FastChat's API server keeps the error's text as the model's template for good.
    "a template is refused with a status": (
        "relay/upstream/test_translating.py::test_a_workers_refusal_on_paths_of_workers_has_status_200",
        "relay/upstream/test_translating.py::test_a_worker_that_breaks_on_these_paths_gives_an_error_object",
        "relay/test_paths.py::test_a_model_that_no_child_serves_in_each_dialect",
        "compat/test_fastchat_traps.py::test_a_worker_that_comes_back_has_its_own_template",
    ),
    # Clients of streams ignore the status, so an error has to be a frame.
    "a stream's error is a status": (
        "whole/test_fastchat_peers.py::test_errors_on_fastchat_paths_are_frames_with_status_200",
        "relay/upstream/test_translating.py::test_an_engines_refusal_is_a_frame",
        "compat/test_fastchat_traps.py::test_a_stream_client_shows_the_nodes_error",
    ),
    # Clients give up after 100 s, or 10, without a byte. An empty frame is a byte without meaning.
    "a slow first token loses the reader": (
        "relay/test_retry.py::test_fastchats_clients_get_a_single_nul",
        "compat/test_fastchat_traps.py::test_empty_frames_are_ignored",
    ),
    # `requests` returns a stream in blocks of 512 bytes if it is compressed or has a length.
    "a stream comes in blocks": (
        "compat/test_worker_below.py::test_a_stream_is_chunked_and_never_compressed",
        "compat/test_fastchat_traps.py::test_each_frame_arrives_when_it_is_sent",
    ),
    # Each GET /v1/models of FastChat's API server refreshes all workers.
    "a refresh empties the table, or waits": (
        "compat/test_worker_below.py::test_listing_models_refreshes_all_workers_and_never_empties_the_table",
        "whole/test_fastchat_peers.py::test_refreshing_never_empties_the_registry",
    ),
    # The client dials the address that it gets. Across subnets that has to be the node's own.
    "an address that the client cannot dial": (
        "whole/test_links.py::test_get_worker_address_returns_the_nodes_own_for_a_child_that_cannot_be_dialled",
        "whole/test_fastchat_peers.py::test_a_node_can_return_its_own_address",
        "compat/test_fastchat_traps.py::test_a_client_in_another_subnet_gets_the_roots_address",
        "api/test_fastchat.py::test_the_address_is_this_nodes_own_if_the_client_cannot_use_the_child",
    ),
    # TinyChat's workers have two paths, echo the prompt, and block until a heartbeat gets its response.
    "a heartbeat waits for its own worker": (
        "compat/test_tinychat.py::test_the_response_to_a_heartbeat_does_not_wait_for_the_worker",
        "compat/test_tinychat.py::test_a_direct_request_does_not_wait_while_the_worker_registers_again",
        "compat/test_tinychat.py::test_openais_clients_get_completions_without_the_echo",
        "relay/upstream/test_translating.py::test_a_worker_without_a_template_gets_whole_prompts_and_echoes_them",
    ),
    # Multi-model workers share one address, register each model separately, and do so before they listen.
    "a second registration replaces the first": (
        "compat/test_restarts.py::test_models_may_register_separately_with_one_address",
        "compat/test_worker_below.py::test_a_worker_of_two_models_registers_again",
        "compat/test_fastchat_traps.py::test_a_worker_without_a_status_is_probed_until_it_listens",
        "compat/test_tinychat.py::test_it_registers_before_it_listens",
    ),
    # Workers lose slots of their semaphore on errors, so the queue that they report is too high or too late.
    "only the reported queue counts": (
        "registry/test_child.py::test_a_reported_queue_that_stays_too_low_does_not_hide_open_leases",
        "compat/test_fastchat_traps.py::test_a_reported_queue_that_stays_too_high_does_not_decide_alone",
        "registry/test_child.py::test_a_reported_queue_that_stays_too_high_does_not_grow_with_each_lease",
    ),
    # FastChat's workers send a heartbeat every 45 s, and its controller keeps them for 90 s.
    "a worker becomes silent after three seconds": (
        "registry/test_registry.py::test_a_worker_registers_sends_heartbeats_and_expires_after_fastchats_time",
        "compat/test_fastchat_traps.py::test_intervals_and_expiry_are_compatible",
        "compat/test_restarts.py::test_fastchats_controller_expires_other_workers_but_not_the_root",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_each_trap_has_its_tests(trap: str) -> None:
    for name in TRAPS[trap]:
        file, _, function = name.partition("::")
        found = ast.parse((TESTS / file).read_text()).body
        assert function in {part.name for part in found if isinstance(part, ast.FunctionDef)}, name
