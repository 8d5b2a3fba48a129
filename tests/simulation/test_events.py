"""The clock of a simulation."""

from __future__ import annotations

from hierarchy.simulation.events import Events


def test_what_is_due_happens_in_order_and_at_its_time() -> None:
    events, seen = Events(), list[tuple[float, str]]()

    def note(name: str) -> None:
        seen.append((events.now, name))

    events.at(2.0, note, "c")
    events.at(1.0, note, "a")
    events.at(1.0, note, "b")
    assert not events.run()
    assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert events.clock() == 2.0


def test_it_stops_at_a_time_or_after_some_events() -> None:
    events, seen = Events(), list[int]()
    for number in range(5):
        events.at(number, seen.append, number)
    assert events.run(until=1.5)
    assert (seen, events.now) == ([0, 1], 1.5)
    assert events.run(most=1)
    assert seen == [0, 1, 2]
    events.after(0.5, seen.append, 9)
    events.run()
    assert seen == [0, 1, 2, 9, 3, 4]


def test_an_event_can_be_the_last() -> None:
    events, seen = Events(), list[int]()
    events.at(1.0, events.stop)
    events.at(2.0, seen.append, 2)
    assert events.run()
    assert (events.now, seen) == (1.0, [])
    assert not events.run()
