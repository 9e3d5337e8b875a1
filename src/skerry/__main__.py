"""`python -m skerry` is the `skerry` command."""

from .cli import entry

if __name__ == "__main__":
    entry()
