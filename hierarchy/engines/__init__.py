"""Engines: inference servers, the leaves of the tree.

`kinds`: an adapter for each kind reads its models and load. `manager`, `prober`: starts and probes the engines of a
node. `local`, `model_store`, `simulated`: engines that this program runs itself.
"""
