"""Callers and sessions: a request's user and session, sign-in and sign-out, rights that change while pages are open,
and the configuration of each state class.

This package knows the registry, the cluster and the streams. It does not know how a request is turned into states:
that is the provider's part. Begin with `caller.Caller`, the user and the session of one request, then read
`sessions.Sessions`, which signs users in and out.
"""
