"""Checks of values with pydantic: scalars, validators run again on what changed, bounds for the work of a payload.

This package knows pydantic's schemas, and nothing of states. Begin with `scalars`, then `revalidation`, which runs a
class's validators on a changed part, and `bounds`, which bounds the work of validating what a client sends.
"""
