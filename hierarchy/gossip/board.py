"""All shared records that a node knows: its own, and those that it carries between instances of other nodes.

Each record that is new here gets the next `revision`. For each parent and each child a node remembers up to which
revision it has sent, so that a record goes to each of them once, and "nothing new" is one comparison.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice

import msgspec

from hierarchy.gossip.file import RecordFile
from hierarchy.runtime.blocking import AT_ONCE, Place
from hierarchy.wire.record import Record

MAX_RECORDS = 4096  # for each node's name; ended ones go first
MAX_LOGGED = 1024  # problems that are remembered, so that each is logged once
MAX_NODES = 1024  # names of nodes whose records are carried; those without news for the longest time go first
MAX_SENT = 256  # records in one message; the rest follow in the next ones
MAX_AHEAD_MS = 86400_000  # a record from further in the future could never be replaced
#: gets each new record of this node, and whether another instance wrote it
Subscriber = Callable[[Record, bool], None]
log = logging.getLogger("hierarchy.gossip")


class Board:
    """The records that one node knows.

    Args:
        node: the name that this node shares with its other instances.
        keys: to sign with the first, and to accept what any of them signed; () if the node has no key: then what is
            not signed is accepted, since such a node accepts children and operators without keys, too.
        file: where its own records are kept; None: nowhere.
        now: Unix seconds.
        place: where the file is read and written.
    """

    def __init__(
        self,
        node: str,
        keys: Sequence[bytes] = (),
        file: RecordFile | None = None,
        now: Callable[[], float] = time.time,
        place: Place = AT_ONCE,
    ) -> None:
        self.node = node
        self.revision = 0  # of the last record that was new
        self._keys = keys
        self._file = file
        self._place = place
        self._written = 0  # revision of the last own record in the file
        self._own = 0  # revision of the last own record
        self._now = now
        self._subscribers: dict[str, Subscriber] = {}
        #: node -> (topic, key) -> (revision, record)
        self._records: dict[str, dict[tuple[str, str], tuple[int, Record]]] = {node: {}}
        self._logged: set[tuple[str, str]] = set()  # (sender, problem), each is logged once
        for record in file.read() if file is not None else ():
            self._restore(record)
        self._written = self._own

    # -- this node's own -------------------------------------------------------------------------------------

    def subscribe(self, topic: str, subscriber: Subscriber) -> list[Record]:
        """Call `subscriber` with each new record of a topic; returns those that are known."""
        self._subscribers[topic] = subscriber
        return [record for _, record in self._records[self.node].values() if record.topic == topic]

    def find(self, topic: str, key: str) -> Record | None:
        """This node's record."""
        return self._known(self.node, (topic, key))

    def publish(
        self,
        topic: str,
        key: str,
        value: dict[str, object],
        *,
        ended: bool = False,
        until_ms: int = 0,
    ) -> None:
        """Make a record, for all instances of this node. `save` keeps it over a restart.

        Args:
            until_ms: when all instances forget it, in Unix milliseconds; 0: never.
        """
        before = self.find(topic, key)
        if before is None:
            self._make_room(self.node)
        changed_ms = max(int(self._now() * 1000), before.changed_ms + 1 if before is not None else 0)
        self._accept(self._signed(Record(self.node, topic, key, changed_ms, value, ended, until_ms)), from_other=False)

    async def save(self) -> bool:
        """Write this node's records to the file, if it lacks any. Returns whether they are kept over a restart."""
        file = self._file
        if file is None:
            return False
        if self._written == self._own:
            return True
        self._forget(self.node)
        records, own = {id: record for id, (_, record) in self._records[self.node].items()}, self._own
        try:
            written = await self._place.run(lambda: file.write(records, self._now() * 1000))
        except TimeoutError:  # the log has it already
            return False
        if written is None:
            return False
        self._written = max(self._written, own)
        self._take_from_file(written)
        return True

    async def refresh(self) -> None:
        """Read the file again if another instance wrote it, and write what is not saved yet."""
        file = self._file
        if file is None:
            return
        with contextlib.suppress(TimeoutError):  # the log has it already
            self._take_from_file(await self._place.run(file.read_if_changed))
        if file.may_try():
            await self.save()

    def _take_from_file(self, records: Iterable[Record]) -> None:
        """Take what another instance wrote to the file."""
        for record in records:
            if record.node != self.node or record.is_over(self._now() * 1000):
                continue
            if record.replaces(self._known(self.node, record.id)):
                is_saved = self._written == self._own
                self._accept(self._signed(record), from_other=True)
                if is_saved:  # this one is in the file
                    self._written = self._own

    # -- to and from parents and children --------------------------------------------------------------------

    def news(self, since: int, names: Collection[str], max_bytes: int | None = None) -> tuple[list[Record], int]:
        """Records of the nodes `names` that are newer than the revision `since`, and the revision reached with them.

        Args:
            max_bytes: of all records as JSON; one record is always returned. None: no limit.
        """
        found = sorted(
            (entry for name in names for entry in self._records.get(name, {}).values() if entry[0] > since),
            key=lambda entry: entry[0],
        )
        sent = found[:MAX_SENT] if max_bytes is None else found[: _fitting([one for _, one in found], max_bytes)]
        reached = self.revision if len(sent) == len(found) else sent[-1][0]
        return [record for _, record in sent], reached

    def receive(self, records: Iterable[Record], names: Collection[str], sender: str) -> None:
        """Take records from a parent or child. names: of the nodes whose records it may send."""
        now_ms = self._now() * 1000
        for record in islice(records, MAX_SENT):
            if record.is_over(now_ms) or record.node not in names:
                continue
            reason = record.problem()  # first: what cannot be written as JSON cannot be compared, either
            if not reason and not self._is_wanted(record):
                continue
            if reason := reason or self._problem(record):
                self._log_once(sender, reason)
                continue
            self._accept(record, from_other=True)

    def _is_wanted(self, record: Record) -> bool:
        """Whether it is newer than what is known, or carried for others and signed with another key than before.

        When a key is replaced, all records are signed again, and nobody accepts the old signatures any more.
        """
        known = self._known(record.node, record.id)
        if record.replaces(known) or known is None or record.node == self.node:
            return record.replaces(known)
        return record.mac != known.mac and msgspec.structs.replace(record, mac=known.mac) == known

    def _problem(self, record: Record) -> str:
        if record.changed_ms > self._now() * 1000 + MAX_AHEAD_MS:
            return "it is from the future; check the clocks"
        if record.node == self.node and self._keys and not record.is_signed(self._keys):
            return "it is not signed with this node's key; all its instances need the same `security.key`"
        return "" if self._has_room(record) else f"{MAX_RECORDS} others are known"

    def forget(self) -> None:
        """Call it now and then: forget the records whose time is over."""
        for node in list(self._records):
            self._forget(node)
            if node != self.node and not self._records[node]:
                del self._records[node]

    # -- keeping ---------------------------------------------------------------------------------------------

    def _known(self, node: str, id: tuple[str, str]) -> Record | None:
        entry = self._records.get(node, {}).get(id)
        return None if entry is None else entry[1]

    def _has_room(self, record: Record) -> bool:
        """Whether the record may be kept; makes room by forgetting the oldest that has ended.

        What is kept for ever, such as a revocation, also takes the place of what is forgotten soonest, such as a token.
        """
        records = self._records.get(record.node, {})
        if record.id in records or self._make_room(record.node):
            return True
        given_up = [(one.until_ms, id) for id, (_, one) in records.items() if one.until_ms and not record.until_ms]
        if given_up:
            del records[min(given_up)[1]]
        return bool(given_up)

    def _make_room(self, node: str) -> bool:
        """Forget the oldest record that has ended, if there are too many. Returns whether there is room."""
        records = self._records.get(node, {})
        if len(records) < MAX_RECORDS:
            return True
        self._forget(node)
        ended = [(one.changed_ms, id) for id, (_, one) in records.items() if one.ended]
        if len(records) >= MAX_RECORDS and ended:
            del records[min(ended)[1]]
        return len(records) < MAX_RECORDS

    def _forget(self, node: str) -> None:
        """Forget the records whose time is over."""
        records, now_ms = self._records.get(node, {}), self._now() * 1000
        for id in [id for id, (_, record) in records.items() if record.is_over(now_ms)]:
            del records[id]

    def _accept(self, record: Record, *, from_other: bool) -> None:
        self.revision += 1
        if record.node not in self._records and len(self._records) > MAX_NODES:
            self._forget_oldest()
        self._records.setdefault(record.node, {})[record.id] = self.revision, record
        if record.node == self.node:
            self._own = self.revision
        if record.node == self.node and record.topic in self._subscribers:
            self._subscribers[record.topic](record, from_other)

    def _forget_oldest(self) -> None:
        """Forget all records of one other node, whose last one came before those of all others."""
        others = [node for node in self._records if node != self.node]
        newest = {node: max((revision for revision, _ in self._records[node].values()), default=0) for node in others}
        del self._records[min(others, key=newest.__getitem__)]

    def _restore(self, record: Record) -> None:
        if record.node == self.node and not record.is_over(self._now() * 1000):  # else it was another node's folder
            self._accept(self._signed(record), from_other=False)

    def _signed(self, record: Record) -> Record:
        return record.signed(self._keys[0]) if self._keys else msgspec.structs.replace(record, mac="")

    def _log_once(self, sender: str, problem: str) -> None:
        if (sender, problem) not in self._logged:
            if len(self._logged) >= MAX_LOGGED:
                self._logged.clear()  # mostly of senders that are gone
            self._logged.add((sender, problem))
            log.warning("a shared record from %s is ignored: %s", sender, problem)

    def __repr__(self) -> str:
        return f"<Board {self.node} revision={self.revision}>"


def _fitting(records: Sequence[Record], max_bytes: int) -> int:
    """How many of the first records fit into a message, at least one if there is one."""
    size = 0
    for number, record in enumerate(records[:MAX_SENT]):
        size += len(msgspec.json.encode(record)) + 1
        if size > max_bytes:
            return max(1, number)
    return min(len(records), MAX_SENT)
