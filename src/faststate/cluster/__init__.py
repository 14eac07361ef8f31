"""One process or many: how the processes of one app share locks, commits and news.

This package knows the registry, whose protocol it implements, and the stores; it knows no page and no connection. Begin
with `sharing.Sharing`, which takes locks and commits through the shared store, and go on to `following.Following`,
which receives what other processes have committed.
"""
