"""What the instances of one node must know of each other, such as an operator's drain. They need not reach each other.

A child passes its parents' records from one instance to the others, and a parent those of a replicated child, in the
reports and in the responses to them. `board`: all records that a node knows. `file`: its own on disk. One of them is a
`wire.record`.
"""

from __future__ import annotations

from hierarchy.gossip.board import Board
from hierarchy.gossip.file import RecordFile
from hierarchy.wire.record import Record

__all__ = ["Board", "Record", "RecordFile"]
