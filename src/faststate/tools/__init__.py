"""What a developer runs beside an app: the `faststate` command, the audit of access rules, the deployment check-up.

This package may know everything below it, and nothing below knows it. Begin with `cli.main`.
"""
