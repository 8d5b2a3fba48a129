"""The scenarios: what is measured."""
