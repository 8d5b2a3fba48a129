"""A tree in all states, and hypothesis's malformed ones, as JSON."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def model(name: str, api: str = "openai") -> dict[str, Any]:
    return {"name": name, "api": api, "speed": 1.0, "queue_length": 0, "slots": 4}


LIVE: dict[str, Any] = {
    "name": "root", "kind": "node", "url": "http://10.0.0.10:21001", "state": "up", "detail": "", "speed": 5.0,
    "queue_length": 7, "in_flight": 4, "models": [model("smol"), model("smol", "fastchat"), model("big/Llama-70B")],
    "future_field": {"ignored": True},
    "children": {
        "site-a": {
            "name": "site-a", "kind": "node", "url": "http://10.1.0.1:21001", "state": "up", "speed": 4.0,
            "queue_length": 6, "in_flight": 3, "models": [model("big/Llama-70B")],
            "children": {
                "a1": {"name": "a1", "kind": "vllm", "state": "up", "speed": 3.5, "queue_length": 6, "in_flight": 3,
                       "models": [model("big/Llama-70B")], "children": {}},
                "a2": {"name": "a2", "kind": "vllm", "state": "down", "detail": "connection refused"},
            },
        },
        "site-b": {"kind": "node", "link": "reverse", "state": "silent", "detail": "no report for 12 s",
                   "models": [model("old", "fastchat")]},
    },
}  # fmt: skip

FIELDS = ["name", "kind", "url", "state", "detail", "speed", "queue_length", "in_flight", "models", "children"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
#: JSON objects with an entry's fields, which may have any value
malformed_entries = st.recursive(
    st.dictionaries(st.sampled_from(FIELDS), json_values),
    lambda inner: st.builds(
        lambda entry, children: entry | {"children": children},
        st.dictionaries(st.sampled_from(FIELDS), json_values),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=6,
)
