"""The data path: the life of a request at one node.

    bytes in      downstream/connection   a head seen before is taken at once, any other by downstream/protocol's parser
    request       request, exchange       the body is collected, its model read, an alias resolved, the key checked
    choose        balancing/dispatch      a policy chooses a child and leases a place at it
    attempt       attempt, upstream/      an idle connection, or a new one; the head and body go to the child
    first byte    attempt, response       the child's head and first bytes go to the client: no other child from here on
    stream        upstream/connection     bytes go from socket to socket, without a task or an await
    failure       retry                   before the first byte: another child, or an error; after it: an error event
    end           exchange._settle        exactly once: the lease is released, the outcome counted, the next turn begins

`lane` is what all exchanges of a node share; downstream/clients holds the open connections.
"""
