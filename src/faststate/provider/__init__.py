"""From a request to its states: resolve, dispatch, page, and the `StateProvider` that users hold.

This package knows every package below it, and no framework: FastHTML comes in above. Begin with
`provider.StateProvider`.
"""

from .provider import StateProvider

__all__ = ["StateProvider"]
