"""A tree as a whole: its graph, its problems, each node's part of it, and how a running tree compares with it.

    file        declared.read_tree(path)             its graph, the reach of its subnets, and its problems
    checks      checks, reachability                 what is wrong with a graph: shape, names, addresses, who can dial
    one node    node_config.from_tree, from_flags    what its daemon needs to know
    a slice     slice.slice_of                       that part of the file, for the machine of one node
    GET /tree   live.live_graph                      the running tree as the same kind of graph
    compare     drift.drift                          how the running tree differs from the declared one
    risks       risks.Risks                          what the loss of one node or link takes away

graph.TreeGraph and graph.Member are what they all look at.
"""
