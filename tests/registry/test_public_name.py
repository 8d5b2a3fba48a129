"""What clients read of a child has its name or a label, and no address."""

from __future__ import annotations

import errno
import os

import pytest

from hierarchy.registry.child import Child
from hierarchy.registry.public_name import Labels, said_of, without_addresses

WORKER = "http://gpu-7.cluster.internal:21002"


def child(url: str = WORKER, name: str = "gpu") -> Child:
    return Child(name, url, "openai")


def test_only_a_name_that_is_a_url_has_a_label() -> None:
    labels = Labels()
    assert labels.of("site-a~2") == "site-a~2"
    label = labels.of(WORKER)
    assert label == labels.of(WORKER)
    assert label.startswith("worker-")
    assert len({label, labels.of(WORKER + "0"), Labels().of(WORKER)}) == 3, "nobody can compute it from the URL"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("cannot be reached: Connect call failed ('10.1.2.3', 21002)", "cannot be reached: Connect call failed HIDDEN"),
        ("failed: Connect call failed ('::1', 21002, 0, 0)", "failed: Connect call failed HIDDEN"),
        ("no: gpu-7.cluster.internal (10.1.2.3) is link-local", "no: HIDDEN is link-local"),
        ("down: http://gpu-7.cluster.internal:21002: Connection refused", "down: HIDDEN: Connection refused"),
        ("is down: http://10.0.0.1:9/v1.", "is down: HIDDEN."),
        ("certificate is not valid for 'GPU-7.cluster.internal'", "certificate is not valid for HIDDEN"),
        ("resolved to fe80::1, [2001:db8::1]:443 and 10.0.0.1:80", "resolved to HIDDEN, HIDDEN and HIDDEN"),
        ("gave 12:30:00 as the time, 3.5 s, version 1.2.3, status 500: no", None),
        (os.strerror(errno.ECONNREFUSED), None),
        ("", None),
    ],
)
def test_addresses_are_left_out_and_nothing_else(reason: str, said: str | None) -> None:
    text = without_addresses(reason, child())
    assert text == (reason if said is None else said.replace("HIDDEN", "its address"))
    for secret in ("10.", "fe80", "2001", "internal", "21002"):
        assert secret not in text.lower()


def test_long_text_of_a_peer_costs_no_long_search() -> None:
    for run in (":", ".", "1", "a.", "1:", "('", "[", "http:"):
        text = run * 100_000 + "x"
        assert without_addresses(text, child()) == text


def test_a_host_that_is_the_childs_name_stays() -> None:
    assert said_of(child("http://gpu:8000"), "broke") == "gpu broke"
    assert without_addresses("gpu (gpu:8000) broke", child("http://gpu:8000")) == "gpu (gpu:8000) broke"
    assert without_addresses("the vllm-gpu broke", child("http://vllm:8000")) == "the vllm-gpu broke"


def test_what_is_said_of_a_worker_has_its_label_and_no_address() -> None:
    worker = Child(WORKER, WORKER, "fastchat")
    worker.label = Labels().of(WORKER)
    said = said_of(worker, f"is taken for dead: {WORKER}: Connect call failed ('10.1.2.3', 21002)")
    assert said == f"{worker.label} is taken for dead: its address: Connect call failed its address"
