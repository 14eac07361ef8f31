"""One file per threat: each drives a real app over HTTP."""
