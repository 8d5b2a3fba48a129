"""The lane: the data path of a request and its answer through a node."""
