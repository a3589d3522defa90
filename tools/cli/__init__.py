"""The command line: ``whet compile | plan | inspect | bench | diff | bisect | passes | report | doctor``."""

from whet.tools.cli.app import app, main

__all__ = ["app", "main"]
