"""Draws a tree of controllers, as `hierarchy tree` does: `python tools/show_tree.py CONFIG_OR_URL`."""

import sys

from hierarchy.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "tree")
    main()
