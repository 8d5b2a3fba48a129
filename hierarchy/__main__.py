"""`python -m hierarchy` is the `hierarchy` command."""

from hierarchy.cli import main

if __name__ == "__main__":
    main()
