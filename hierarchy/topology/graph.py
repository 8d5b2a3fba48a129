"""A tree of nodes and engines as a graph, whether a file declares it (`declared`) or it is running (`live`).

Checks, risks and comparisons look at this graph alone, so each of them works on both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import networkx as nx

from hierarchy.config.address import Address, host_of, literal_ip
from hierarchy.config.yaml import FieldPath

NODE = "node"  # the kind of a node; every other kind is one of an engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node or an engine of a tree."""

    #: unique in its graph: the name, or "NAME (engine)" or "NAME (PARENT)" if another member has that name
    key: str
    #: as the file declares it, or as it registered
    name: str
    #: "node", or the kind of an engine, such as "vllm"
    kind: str
    #: path of its entry in the file; in a running tree, the names from the top down to it
    field: FieldPath
    #: keys of its parents; a declared parent may be missing, and the replicas of a declared parent are parents too
    parents: tuple[str, ...] = ()
    #: name of the node whose replica it is
    replica_of: str | None = None
    #: name of its declared subnet
    subnet: str | None = None
    #: who opens the connections for requests: "direct" (the parent), "reverse" (the child) or "auto"
    link: str = "direct"
    #: addresses at which a node listens
    listen: tuple[Address, ...] = ()
    #: addresses at which it listens for operators only
    admin: tuple[Address, ...] = ()
    #: `advertise` of a node or `url` of an engine as written, valid or not; None if there is none
    declared_url: str | None = None
    #: all URLs at which it can be reached; its children dial one of them
    urls: tuple[str, ...] = ()
    #: those of `urls` that its parent may dial: the declared one alone if there is one
    urls_for_parent: tuple[str, ...] = ()
    #: of an engine: names of the models that it serves; () if only the engine knows them
    models: tuple[str, ...] = ()
    #: of an engine: the model that its node starts it with
    model: str | None = None
    #: of an engine: its node can start it
    launchable: bool = False
    #: of an engine: a command starts it when a request needs it
    has_command: bool = False
    #: of an engine: its capacity relative to other engines
    speed: float = 0.0
    #: "declared", or in a running tree the state that `/tree` shows, such as "up"
    state: str = "declared"
    #: in a running tree: it sleeps, and a request wakes it up
    wakes: bool = False
    #: in a running tree: why it is in that state
    detail: str = ""
    #: in a running tree: what is wrong with a node, as it reports
    warnings: tuple[str, ...] = ()
    #: in a running tree: id of a node's process, new at each start; "" for an engine
    instance: str = ""
    #: in a running tree: one more instance of the node `name`, listed as "NAME~2"
    extra_instance: bool = False

    @property
    def is_node(self) -> bool:
        """Whether it is a node; otherwise it is an engine."""
        return self.kind == NODE

    @property
    def declared_name(self) -> str | None:
        """The URL in `declared_url` if it is valid and has a host name instead of an IP address."""
        url = self.urls[0] if self.declared_url is not None and self.urls_for_parent else None
        return url if url is not None and literal_ip(host_of(url)) is None else None

    @property
    def noun(self) -> str:
        """ "node" or "engine", for messages."""
        return NODE if self.is_node else "engine"


class TreeGraph:
    """Members by key, in the order given, and an edge from each parent to each of its children.

    Only a node has children, so a parent that is missing or is an engine makes no edge.
    """

    def __init__(self, members: Iterable[Member], slice_of: str | None = None) -> None:
        """
        Args:
            slice_of: the node whose part of a tree this is; None for a whole tree.
        """
        self.members: dict[str, Member] = {member.key: member for member in members}
        self.slice_of = slice_of
        #: the keys alone, for the algorithms of networkx
        self.digraph = nx.DiGraph()
        self.digraph.add_nodes_from(self.members)
        self.digraph.add_edges_from(
            (parent, member.key)
            for member in self
            for parent in member.parents
            if parent in self.members and self.members[parent].is_node
        )

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    def __len__(self) -> int:
        return len(self.members)

    @property
    def nodes(self) -> dict[str, Member]:
        """The nodes by key."""
        return {member.key: member for member in self if member.is_node}

    @property
    def engines(self) -> dict[str, Member]:
        """The engines by key."""
        return {member.key: member for member in self if not member.is_node}

    @property
    def edges(self) -> Iterator[tuple[Member, Member]]:
        """Each parent with each of its children."""
        return ((self.members[parent], self.members[child]) for parent, child in self.digraph.edges)

    @property
    def depth(self) -> int:
        """Levels of nodes above the deepest engine: edges on the longest path. The graph must have no cycle."""
        return int(nx.dag_longest_path_length(self.digraph))

    def children(self, key: str) -> list[Member]:
        """The members right below a node, in the order of the graph's edges."""
        return [self.members[child] for child in self.digraph[key]]

    def parents(self, key: str) -> list[Member]:
        """The nodes right above a member, as far as they exist."""
        return [self.members[parent] for parent in self.digraph.pred[key]]

    def below(self, key: str) -> set[str]:
        """Keys of everything below a node."""
        return set(nx.descendants(self.digraph, key))

    def cycles(self) -> Iterator[list[str]]:
        """The keys of each cycle, beginning with the one that is first in the graph."""
        order = {key: index for index, key in enumerate(self.members)}
        for cycle in nx.simple_cycles(self.digraph):
            start = cycle.index(min(cycle, key=order.__getitem__))
            yield [*cycle[start:], *cycle[:start]]

    def only(self, keys: Collection[str]) -> TreeGraph:
        """The graph of some of its members, with the edges between them."""
        wanted = frozenset(keys)
        return TreeGraph((self.members[key] for key in self.members if key in wanted), self.slice_of)
