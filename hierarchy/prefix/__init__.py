"""Which child has most of a prompt in its KV cache. Without I/O, and without knowing what a child is.

`fingerprint`: what a prompt begins with, in at most 36 digests. `header`: the same as a header field. `index`: which
children were sent which digests. `cost`: what it costs to choose a child.
"""
