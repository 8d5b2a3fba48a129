"""Which child gets a request. Without I/O.

`aliases`: from a requested name to models. `dispatch`: from a model to a lease on a child. `policy`: the choice among
candidates. `retry_budget`, `lent_attempts`: how many retries there may be, at this node and below.
"""
