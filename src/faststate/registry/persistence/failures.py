"""Failures: the time that a store or the app's own code gets, and how their errors are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pydantic import ValidationError

from ...exceptions import FastStateError, PersistenceError
from ...redaction import redacted


@contextlib.asynccontextmanager
async def persistence_errors(message: str, seconds: float) -> AsyncIterator[None]:
    """Give a store or the app's own code `seconds` to finish, and raise each failure of it as a `PersistenceError`.

    `message` (str) says what could not be done. FastState's own errors pass as they are.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except FastStateError:
        raise
    except TimeoutError as error:
        raise PersistenceError(f"{message}: no answer within {seconds:g} s") from redacted(error)
    except ValidationError as error:  # of the app's own code
        raise PersistenceError(f"{message}: {described(redacted(error))}") from None
    except Exception as error:  # of a driver, or of the app's own code: it may show what was to be stored
        raise PersistenceError(f"{message}: {type(error).__name__}") from redacted(error)


def described(error: BaseException) -> str:
    """Describe a `redacted` error for the log, without values."""
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(map(str, p['loc'])) or 'state'}: {p['msg']}" for p in problems[:5])
    return type(error).__name__
