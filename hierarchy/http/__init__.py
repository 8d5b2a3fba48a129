"""HTTP as pure functions of bytes: heads, framing, bodies' `model`, and the responses that this node writes itself.

`request_head`, `response_head`: what a head means, and what of it is forwarded. `framing`: where a body ends.
`model_field`, `multipart`: the `model` of a body. `dialect`: the form of errors and streams of each path. `render`:
responses of this node. Nothing here does I/O or waits.
"""
