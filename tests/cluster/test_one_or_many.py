"""One process or many: what the cluster of many processes takes over from the cluster of one."""

from __future__ import annotations

from faststate.cluster.base import AppCluster
from faststate.cluster.shared import SharedCluster
from faststate.registry.protocols import Cluster


def test_the_cluster_of_many_processes_overrides_every_method_of_the_cluster_of_one():
    methods = {name for base in (Cluster, AppCluster) for name in vars(base) if not name.startswith("_")}
    assert len(methods) > 25
    assert [name for name in sorted(methods) if getattr(SharedCluster, name) is getattr(AppCluster, name)] == []
