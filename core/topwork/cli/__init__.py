"""Command line: `app` reads the shared options and dispatches, each other module holds one family of commands."""

from topwork.cli.app import main

__all__ = ["main"]
