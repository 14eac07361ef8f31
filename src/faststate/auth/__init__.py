"""Users and their rights.

Users and access rules stand below the states, which carry rules; signed tokens and rate limits stand above them. This
package knows requests and errors, and nothing of states, stores or pages. Begin with `users.UserContext`, a signed-in
user, and `rules.authorize`, the one place where a rule is checked.
"""

from .rules import requires_auth
from .users import UserContext, current_request, current_user, get_current_request, get_current_user

__all__ = [
    "UserContext",
    "current_request",
    "current_user",
    "get_current_request",
    "get_current_user",
    "requires_auth",
]
