"""When work runs: time limits, fair queues, worker threads, and the events under way.

This package knows asyncio and threads, and nothing of states. Begin with `queues.FairQueue`, which gives each client
its turn, and `running`, which keeps the events under way within their limits.
"""
