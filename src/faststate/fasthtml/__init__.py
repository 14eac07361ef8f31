"""The integration with FastHTML: `fast_app`, injection into handlers, routes, streams, and errors as responses.

Only this package, and the tools above it, import FastHTML. It knows everything below it. Begin with `setup.setup`: it
gives an app all of its parts.
"""

from .setup import fast_app, setup

__all__ = ["fast_app", "setup"]
