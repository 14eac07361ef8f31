"""Who calls: a request's user and session, sign-in and sign-out, rights that change while pages are open; and what an
app configures for each state class.

This package knows the registry, the cluster and the streams. It does not know how a request is turned into states:
that is the provider's part. Begin with `caller.Caller`, the user and the session of one request.
"""
