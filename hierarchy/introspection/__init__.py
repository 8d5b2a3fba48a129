"""What a node shows of the tree below it, from memory.

`tree`: `/tree`, the model list, and the subtree in reports. `explain`: where the next request for a model goes.
`oversight`: logs faults of the running tree.
"""
