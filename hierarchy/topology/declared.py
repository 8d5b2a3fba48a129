"""A tree as a configuration declares it: its graph, who can dial whom, and everything that is wrong with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from hierarchy.config.address import is_wildcard, parse_url, url_of
from hierarchy.config.models import (
    LAUNCHED_KINDS,
    ConfigError,
    EngineSpec,
    LoadedTree,
    NodeSpec,
    TreeConfig,
    read,
)
from hierarchy.config.yaml import FieldPath, Finding, Problem, closest
from hierarchy.errors import UsageError
from hierarchy.topology.checks import check_all
from hierarchy.topology.graph import NODE, Member, TreeGraph
from hierarchy.topology.incomplete import check_incomplete, is_wrong
from hierarchy.topology.labels import check_labels
from hierarchy.topology.preferred import check_prefer, note_prefer
from hierarchy.topology.reachability import check_reach, parse_reach

Replicas = Mapping[str, Sequence[str]]  #: name of a node -> names of its replicas


class DeclaredTree:
    """A loaded configuration with all that follows from it, computed once.

    Attributes:
        wrong: paths of the fields that the file has, and `config` has not, since they are wrong.
    """

    def __init__(self, loaded: LoadedTree) -> None:
        self.config = loaded.config
        self.source = loaded.source
        self.wrong = loaded.wrong
        self._problems_of_fields = loaded.problems
        self.graph = declared_graph(loaded.config)
        self.reach, self._reach_findings = parse_reach(loaded.config.subnets, loaded.config.reach)

    @cached_property
    def problems(self) -> list[Problem]:
        """Everything that is wrong with the tree, in the order of the file; [] if it is valid."""
        problems = {*self._problems_of_fields, *(self.source.problem(*finding) for finding in self._findings())}
        return sorted(problems, key=lambda problem: (problem.line, str(problem)))

    @cached_property
    def notes(self) -> list[Problem]:
        """What is probably wrong, but right if what is missing in the file registers while the tree runs."""
        findings = () if self.wrong else note_prefer(self.config, self.graph)
        return [self.source.problem(*finding) for finding in findings]

    def _findings(self) -> Iterator[Finding]:
        others = [
            *self._reach_findings,
            *_check_aliases(self.config),
            *_check_slice(self.config),
            *check_labels(self.config),
        ]
        if not self.wrong:
            yield from (*others, *check_all(self.graph), *check_reach(self.graph, self.reach))
            yield from check_prefer(self.config, self.graph)
            return
        yield from check_incomplete(self.graph, self.reach, self.wrong)
        sections = {path[0] for path in self.wrong if len(path) <= 2}
        yield from (
            finding
            for finding in others
            if not is_wrong(finding.field, self.wrong)
            and not (finding.field[0] in ("subnets", "reach") and "subnets" in sections)
            and not (finding.field[0] == "slice" and "nodes" in sections)
        )

    def require_valid(self) -> None:
        """Raise a `ConfigError` with all problems, if there are any."""
        if self.problems:
            raise ConfigError(self.problems)

    def choose_node(self, name: str | None) -> str:
        """The node that a command is about: the named one, else that of a slice, else the only one.

        Raises:
            UsageError: none is named, and there is not exactly one.
        """
        names = list(self.config.nodes)
        name = name or self.config.slice
        if name is None and len(names) != 1:
            raise UsageError(f"{self.source.file} has {len(names)} nodes; choose one with --node: {', '.join(names)}")
        return name or names[0]

    def field_of(self, node: str, field: FieldPath) -> FieldPath:
        """The place in the file of a field of one node's own configuration: at the node, or in `defaults`."""
        if field[:1] == ("engines",):
            return field
        own, shared = ("nodes", node, *field), ("defaults", *field)
        return shared if shared in self.source.lines and own not in self.source.lines else own

    def may_dial(self, source: str, target: str) -> bool | None:
        """Whether `subnets` and `reach` let the machine of one member open a connection to another's.

        None if the subnet of either is unknown: a host name, loopback, or an address outside all subnets.

        Raises:
            UsageError: there is no node or engine of one of these names.
        """
        members = self.graph.members
        for name in (source, target):
            if name not in members:
                raise UsageError(f'{self.source.file}: no node or engine "{name}"; {closest(name, members)}')
        return self.reach.may_dial(members[source], members[target])


def read_tree(path: Path) -> DeclaredTree:
    """The tree of a file.

    Raises:
        UnreadableConfigError: the file cannot be read.
        ConfigError: with everything that is wrong in it, from its syntax to the tree as a whole.
    """
    tree = DeclaredTree(read(path))
    tree.require_valid()
    return tree


def declared_graph(tree: TreeConfig) -> TreeGraph:
    """The graph of a configuration; an engine with the name of a node has the key "NAME (engine)"."""
    replicas = defaultdict(list)
    for name, spec in tree.nodes.items():
        if spec.replica_of is not None:
            replicas[spec.replica_of].append(name)
    nodes = [_node(tree, name, spec, replicas) for name, spec in tree.nodes.items()]
    engines = [_engine(tree, name, spec, replicas) for name, spec in tree.engines.items()]
    return TreeGraph([*nodes, *engines], tree.slice)


def _node(tree: TreeConfig, name: str, spec: NodeSpec, replicas: Replicas) -> Member:
    original = tree.nodes.get(spec.replica_of) if spec.replica_of else None
    scheme = "https" if spec.tls.cert or tree.defaults.tls.cert else "http"
    listened = tuple(url_of(address, scheme) for address in spec.listen if not is_wildcard(address[0]))
    urls, urls_for_parent = _urls(spec.advertise, listened)
    return Member(
        key=name,
        name=name,
        kind=NODE,
        field=("nodes", name),
        parents=_with_replicas((original or spec).parents or spec.parents, replicas),
        replica_of=spec.replica_of,
        subnet=spec.subnet,
        link=spec.link,
        listen=spec.listen,
        admin=spec.admin_listen or (),
        declared_url=spec.advertise,
        urls=urls,
        urls_for_parent=urls_for_parent,
    )


def _engine(tree: TreeConfig, name: str, spec: EngineSpec, replicas: Replicas) -> Member:
    urls, urls_for_parent = _urls(spec.url, ())
    return Member(
        key=f"{name} (engine)" if name in tree.nodes else name,
        name=name,
        kind=spec.kind,
        field=("engines", name),
        parents=_with_replicas(spec.parents, replicas),
        subnet=spec.subnet,
        declared_url=spec.url,
        urls=urls,
        urls_for_parent=urls_for_parent,
        models=tuple(spec.models) or _launched_models(spec),
        model=spec.model,
        launchable=spec.kind in LAUNCHED_KINDS,
        has_command=spec.command is not None,
        speed=spec.speed,
    )


def _launched_models(engine: EngineSpec) -> tuple[str, ...]:
    if engine.model is None or engine.kind not in LAUNCHED_KINDS:
        return ()
    # a GGUF file is served under the name of the file
    return (Path(engine.model).stem if engine.model.endswith(".gguf") else engine.model,)


def _with_replicas(parents: Sequence[str], replicas: Replicas) -> tuple[str, ...]:
    """The parents, each followed by its replicas."""
    return tuple(dict.fromkeys(name for parent in parents for name in (parent, *replicas.get(parent, ()))))


def _urls(declared: str | None, listened: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(`urls`, `urls_for_parent`) of a member with this declared URL and these that follow from `listen`."""
    if declared is None:
        return listened, listened
    try:
        url = parse_url(declared)[0]
    except ValueError:  # reported by `checks.check_urls`
        return listened, ()
    return tuple(dict.fromkeys([url, *listened])), (url,)


def _check_aliases(tree: TreeConfig) -> Iterator[Finding]:
    """An alias names models, not other aliases."""
    for name, targets in tree.aliases.items():
        for target in targets:
            if target.model in tree.aliases and target.model != name:
                yield Finding(("aliases", name), f'"{target.model}" is itself an alias', "name the models behind it")


def _check_slice(tree: TreeConfig) -> Iterator[Finding]:
    """The node whose part of a tree this is exists."""
    if tree.slice is not None and tree.slice not in tree.nodes:
        yield Finding(("slice",), f'no node "{tree.slice}"', closest(tree.slice, tree.nodes))
