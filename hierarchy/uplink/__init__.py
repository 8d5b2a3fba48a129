"""The relation of a node to its parents.

`registration`: registers and reports, through `parent_client`. `links`, `link_handshake`: connections that this node
dials and the parent uses for requests. `dial`: opens connections, through an HTTP proxy if there is one.
"""
