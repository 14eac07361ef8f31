"""One process or many: how the processes of one app share locks, commits and news.

This package knows the registry, whose protocol it implements, and the stores; it knows no page and no connection. Begin
with `base.AppCluster`, the cluster of one process, which `shared` overrides for many. Then read `committing`, which
takes locks and commits through the shared store, and `following`, which hears what other processes have committed.
"""
