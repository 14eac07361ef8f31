"""The reports of the `faststate` command, as text for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final, TextIO

from ..scopes import StateScope
from ..sessions.config import OnLogin
from .audit import USER_OF_THE_KEY, AuditReport, EventReport, FieldReport, Guards, StateReport
from .doctor import Check

FORMAT: Final = 1
"""The version of the JSON documents. It grows when a key changes its meaning or is removed, not when one is added."""

Examined = Sequence[tuple[str, Sequence[Check]]]
"""The checks of each provider, with the path that its app is mounted at."""

WIDTH: Final = 100
_LABEL: Final = 13  # columns of "  server only" and one space, less the indent
_GLUE: Final = "\N{NO-BREAK SPACE}"  # textwrap does not break a line at it
_SHORT: Final = 30
_SIGNATURE: Final = 46  # most columns of an event's signature; longer ones are wrapped


def audit_as_json(target: str, reports: Sequence[AuditReport]) -> str:
    """Return the JSON document of `faststate audit`."""
    document = {
        "format": FORMAT,
        "target": target,
        "errors": sum(report.errors for report in reports),
        "warnings": sum(report.warnings for report in reports),
        "findings": [dataclasses.asdict(finding) for report in reports for finding in report.findings],
        "providers": [
            {name: part for name, part in dataclasses.asdict(report).items() if name != "findings"}
            for report in reports
        ],
    }
    return json.dumps(document, indent=2, default=lambda scope: scope.value)


def checks_as_json(target: str, examined: Examined) -> str:
    """Return the JSON document of `faststate doctor`."""
    document = {
        "format": FORMAT,
        "target": target,
        "problems": problems_in(examined),
        "checks": [{"mount": path, **check._asdict()} for path, checks in examined for check in checks],
    }
    return json.dumps(document, indent=2)


def checks_as_text(target: str, examined: Examined, paint: Paint) -> str:
    """Return the text of `faststate doctor`."""
    colours = {"ok": _GREEN, "note": _YELLOW, "problem": _RED}
    indent = " " * (2 + 9 + 12)
    lines: list[str] = []
    for path, checks in examined:
        lines.append(_mounted(target, path))
        for check in checks:
            first, *rest = _wrap(check.message, WIDTH - len(indent)) or [""]
            lines.append(f"  {paint(f'{check.level:<9}', colours[check.level])}{check.about:<12}{first}")
            lines += [indent + line for line in rest]
    problems = problems_in(examined)
    lines.append(paint(_count(problems, "problem") if problems else "No problems.", _RED if problems else _GREEN))
    return "\n".join(lines)


def problems_in(examined: Examined) -> int:
    """Count the problems that were found."""
    return sum(check.level == "problem" for _, checks in examined for check in checks)


def _mounted(target: str, path: str) -> str:
    return target if path == "/" else f"{target}, mounted at {path}"


class Paint:
    """Colours text for a terminal, and leaves it as it is for anything else. Lifetime: one run."""

    def __init__(self, stream: TextIO) -> None:
        self.on = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def __call__(self, text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.on else text


_BOLD, _RED, _GREEN, _YELLOW = 1, 31, 32, 33

_SHARED_BY: Final = {
    StateScope.GLOBAL: "one for all",
    StateScope.SESSION: "one per browser session",
    StateScope.USER: "one per signed-in user",
    StateScope.COMPONENT: "one per session and component",
    StateScope.RECORD: "one per record, for all",
    StateScope.TEMPORARY: "one per page",
}
_ON_LOGIN: Final[dict[OnLogin, str]] = {
    "keep": "kept",
    "drop": "dropped",
    "to_user": "given to the user; signed in, one per user",
}
_REACH: Final = {
    StateScope.GLOBAL: "anyone",
    StateScope.SESSION: "its session",
    StateScope.USER: "its user",
    StateScope.COMPONENT: "its session",
    StateScope.RECORD: "anyone",
    StateScope.TEMPORARY: "its page",
}
"""Clients that can send the events of a state without a rule."""


def audit_as_text(target: str, reports: Sequence[AuditReport], paint: Paint) -> str:
    """Return the text of `faststate audit`."""
    lines: list[str] = []
    for report in reports:
        lines += [f"{_mounted(target, report.mount)}: {_count(len(report.states), 'state')}", ""]
        for state in report.states:
            open_events = {f.event for f in report.findings if f.code == "unguarded" and f.state == state.name}
            lines += [*_state_lines(state, open_events, paint), ""]
    several = len(reports) > 1
    for report in reports:
        for finding in report.findings:
            subject = f"{finding.state}.{finding.event}" if finding.event else finding.state
            place = f" (at {finding.mount})" if several else ""
            text = f"{finding.level}: {subject}{place}: {finding.message}"
            first, *rest = _wrap(text, WIDTH, "  ")
            level = paint(finding.level, _RED if finding.level == "error" else _YELLOW)
            lines += [first.replace(finding.level, level, 1), *rest]
    errors, warnings = (sum(getattr(report, what) for report in reports) for what in ("errors", "warnings"))
    verdict = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}" if errors or warnings else "Nothing found."
    lines.append(paint(verdict, _RED if errors else _YELLOW if warnings else _GREEN))
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _state_lines(state: StateReport, open_events: set[str | None], paint: Paint) -> Iterator[str]:
    yield paint(state.name, _BOLD)
    yield from _labelled("class", state.cls)
    yield from _labelled("scope", f"{state.scope.name}, {_SHARED_BY[state.scope]}")
    ttl = "never dropped" if state.ttl is None else f"dropped after {state.ttl:,.10g} s unused"
    yield from _labelled("ttl", ttl)
    rule = _listed(_asked(state.guards)) or "none"
    yield from _labelled("rule", f"{rule}; public, as declared" if state.public else rule)
    kind = "" if state.owner == USER_OF_THE_KEY else "field "
    yield from _labelled("owner", "none" if state.owner is None else f"the {kind}{state.owner}")
    if state.on_login is not None:
        yield from _labelled("on login", _ON_LOGIN[state.on_login])
    groups = {
        "signals": [f for f in state.fields if f.exposure == "signal" and not f.bound],
        "bound": [f for f in state.fields if f.bound],
        "views only": [f for f in state.fields if f.exposure == "views"],
        "server only": [f for f in state.fields if f.exposure == "server"],
    }
    for label, fields in groups.items():
        if fields:
            yield from _labelled(label, _listed(map(_field, fields)))
    rows = [(_signature(event), _who(state, event), event.name in open_events) for event in state.events]
    width = min(_SIGNATURE, max((len(signature) for signature, *_ in rows), default=0))
    label = "events"
    for signature, who, is_open in rows:
        left = _wrap(signature, width, "  ")
        right = _wrap(who, WIDTH - 2 - _LABEL - width - 2)
        for i, (one, other) in enumerate(zip_longest(left, right, fillvalue="")):
            shown = paint(other, _RED) if is_open else other
            yield f"  {label if i == 0 else '':<{_LABEL}}{one:<{width}}  {shown}".rstrip()
            label = ""


def _labelled(label: str, text: str) -> Iterator[str]:
    indent = " " * (2 + _LABEL)
    for i, line in enumerate(_wrap(text, WIDTH - len(indent))):
        yield f"  {label:<{_LABEL}}{line}" if i == 0 else indent + line


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    lines = textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace(_GLUE, " ") for line in lines]


def _listed(items: Iterable[str]) -> str:
    """Join items with commas, so that short ones are not broken over lines."""
    return ", ".join(item.replace(" ", _GLUE) if len(item) <= _SHORT else item for item in items)


def _asked(guards: Guards) -> Iterator[str]:
    if guards.requires_auth and not (guards.permissions or guards.roles or guards.owner_only):
        yield "signed in"  # the others imply it
    for permission in guards.permissions:
        yield f'permission "{permission}"'
    for role in guards.roles:
        yield f'role "{role}"'
    if guards.owner_only:
        yield "owner only"
    if guards.authorize is not None:
        yield f"authorize {guards.authorize}"


def _who(state: StateReport, event: EventReport) -> str:
    asked = list(_asked(event.guards))
    reach = _REACH[state.scope]
    if not asked or reach != "anyone":
        asked.insert(0, reach)
    return _listed(asked)


def _field(field: FieldReport) -> str:
    notes = []
    if field.computed:
        notes.append("computed")
    if field.bound:
        notes.append("client may set")
    if field.permission is not None:
        notes.append(f'visible to "{field.permission}"')
    return f"{field.name} ({', '.join(notes)})" if notes else field.name


def _signature(event: EventReport) -> str:
    arguments = (f"{a.name}: {a.type}{' = ...' if a.optional else ''}" for a in event.arguments)
    taken = (f"{s.name}: {s.state}{f'[{s.record}]' if s.record is not None else ''}" for s in event.states)
    return f"{event.name}({_listed((*arguments, *taken))})"
