"""FastHTML, and this package alone: `fast_app`, injection into handlers, routes, streams, and errors as responses.

This package knows everything below it, and FastHTML's app; only the tools stand above it. Begin with `setup.setup`,
which gives an app all of its parts.
"""

from .setup import fast_app, setup

__all__ = ["fast_app", "setup"]
