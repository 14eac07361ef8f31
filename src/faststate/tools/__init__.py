"""Tools that a developer runs: the `faststate` command, the audit of access rules, the deployment check-up.

This package may import everything below it, and nothing imports it. Begin with `cli.main`.
"""
