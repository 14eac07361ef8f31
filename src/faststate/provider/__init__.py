"""From a request to its states: resolve, dispatch, page, and the `StateProvider` that users hold.

This package knows every package below it, and no framework: FastHTML comes in above. Begin with
`provider.StateProvider`, the face. `parts` makes the parts and hands them to each other, and lower packages call
`hooks` back; `resolve`, `dispatch`, `page_streams` and `page` are the ways of a state, an event, a stream and a page.
"""

from .provider import StateProvider

__all__ = ["StateProvider"]
