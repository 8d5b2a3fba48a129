"""What travels between a child and its parent, as records. Without I/O.

`messages`: registrations, reports and their responses. `checks`: which values are allowed in them. `status`: speed and
load per model, and their sums. `offer`: which labels they have. `subtree`: the JSON of `/tree` on its way up.
`tree_entry`: that JSON, decoded.
"""
