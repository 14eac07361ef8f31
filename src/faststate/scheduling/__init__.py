"""When work runs: time limits, fair queues, worker threads, and running events.

This package knows asyncio and threads, and nothing of states. Begin with `queues.FairQueue`, which gives each client
its turn, and `running`, which keeps running events within their limits.
"""
