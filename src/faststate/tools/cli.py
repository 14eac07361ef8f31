"""The command: `faststate audit module:app` lists what an app exposes, `faststate doctor` looks at what it runs on."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import importlib
import inspect
import json
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

from ..provider.provider import StateProvider
from ..scopes import StateScope
from ..sessions.config import OnLogin
from .audit import (
    USER_OF_THE_KEY,
    AuditReport,
    EventReport,
    FieldReport,
    Finding,
    Guards,
    StateReport,
    audit,
    providers_of,
)
from .doctor import Check, examine

__all__ = ["main"]

FORMAT: Final = 1
"""The version of the JSON document: it grows when a key changes its meaning or goes away, not when one is added."""

WIDTH: Final = 100
_LABEL: Final = 13  # columns of "  server only" and one space, less the indent
_GLUE: Final = "\N{NO-BREAK SPACE}"  # which textwrap does not break at
_SHORT: Final = 30
_SIGNATURE: Final = 46  # most columns of an event's signature; longer ones are wrapped


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv` (by default the process's own) and returns its exit code.

    0: nothing found. 1: an event is shared and unguarded (with --strict, also: a warning); what the app runs on is not
    right. 2: the command or the app is not right, as one line on stderr says.
    """
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has written --help, or what is wrong
        return stop.code if isinstance(stop.code, int) else 2
    try:
        target = _load(options.target, options.app_dir, factory=options.factory)
        found = providers_of(target)
        if not found:
            raise _UsageError(_without_provider(options.target, target))
        code: int = options.run(options, target, found)
    except _UsageError as error:
        if options.traceback and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        print(f"faststate {options.command}: error: {error}", file=sys.stderr)
        return 2
    return code


_Found = Sequence[tuple[str, StateProvider]]
"""The providers that were found, each with the path that it is mounted at."""


def _audit(options: argparse.Namespace, target: Any, found: _Found) -> int:
    reports = [audit(provider, path) for path, provider in found]
    _write(_as_json(options.target, reports) if options.json else _as_text(options.target, reports, _Paint(sys.stdout)))
    return int(any(report.errors or (options.strict and report.warnings) for report in reports))


def _doctor(options: argparse.Namespace, target: Any, found: _Found) -> int:
    async def look() -> list[tuple[str, list[Check]]]:
        return [(path, await examine(target, provider)) for path, provider in found]

    examined = asyncio.run(look())
    problems = sum(check.level == "problem" for _, checks in examined for check in checks)
    if options.json:
        _write(_checks_as_json(options.target, examined, problems))
    else:
        _write("\n".join(_check_lines(options.target, examined, problems, _Paint(sys.stdout))))
    return int(problems > 0)


class _UsageError(Exception):
    """The command cannot do what it was asked for; the message is one line. Its cause has a traceback worth showing."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="faststate", description="Tools for apps that are made with FastState.", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    command = commands.add_parser(
        "audit",
        allow_abbrev=False,
        help="list what an app exposes; fail on what is shared and unguarded",
        description="Lists every state of an app, who may see and change it, and what is shared and unguarded.",
        epilog="Exit codes: 0 nothing found; 1 events that are shared and unguarded; 2 the app could not be audited. "
        "The app is imported, so its top-level code runs, as it does under a server.",
    )
    command.set_defaults(run=_audit)
    command.add_argument("--strict", action="store_true", help="exit with 1 for warnings, too")
    _add_target(command)
    command = commands.add_parser(
        "doctor",
        allow_abbrev=False,
        help="look at what an app runs on: its store, its secret, its processes",
        description="Looks at what an app runs on, from where and with the environment that it is to run with.",
        epilog="Exit codes: 0 no problems; 1 problems; 2 the app could not be looked at. "
        "It is imported, and not started.",
    )
    command.set_defaults(run=_doctor)
    _add_target(command)
    return parser


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument("target", metavar="MODULE:ATTR", help="the app, or its StateProvider, as in shop:app")
    command.add_argument(
        "--app-dir", metavar="DIR", default=".", help="where MODULE is (default: the current directory)"
    )
    command.add_argument("--factory", action="store_true", help="ATTR is a function that makes the app")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.add_argument("--traceback", action="store_true", help="show where an import failed")


# -- loading -----------------------------------------------------------------------------------------------------------


def _load(target: str, app_dir: str, *, factory: bool) -> Any:
    """What `module:attr` names. Raises `_UsageError`."""
    module_name, _, path = target.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*", module_name) or not re.fullmatch(r"\w+(\.\w+)*", path):
        raise _UsageError(f"the app is named as MODULE:ATTR, as in shop:app, not {target!r}")
    if not Path(app_dir).is_dir():
        raise _UsageError(f"--app-dir: there is no directory {app_dir!r}")
    sys.path.insert(0, os.path.abspath(app_dir))
    importlib.invalidate_caches()
    with _app_code(f"importing {module_name}"):
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the module is there, and imports one that is not
            raise _UsageError(
                f"there is no module {module_name!r} in {os.path.abspath(app_dir)}: --app-dir names another directory"
            ) from None
    with _app_code(f"looking up {target}"):
        for name in path.split("."):
            if not hasattr(found, name):
                raise _UsageError(f"{module_name} has no {path!r}")
            found = getattr(found, name)
    if factory:
        if not callable(found):
            raise _UsageError(f"{target} is no factory: it is a {type(found).__name__}, which cannot be called")
        with _app_code(f"calling {target}"):
            found = found()
    return found


@contextlib.contextmanager
def _app_code(doing: str) -> Iterator[None]:
    """For code of the app: what it prints goes to stderr, as stdout is the report's; what it raises, into one line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except _UsageError:
        raise
    except (Exception, SystemExit) as error:
        said = str(error).strip().partition("\n")[0]
        message = f"{doing} failed: {type(error).__name__}{f': {said}' if said else ''} (--traceback shows where)"
        raise _UsageError(message) from error


def _without_provider(target: str, found: Any) -> str:
    if inspect.isroutine(found):
        return f"{target} is a function: if it makes the app, add --factory"
    return f"{target} has no StateProvider: name an app that one was set up with, not a {type(found).__name__}"


# -- printing ----------------------------------------------------------------------------------------------------------


def _write(text: str) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python flushes once more at its end, which must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_json(target: str, reports: Sequence[AuditReport]) -> str:
    document = {
        "format": FORMAT,
        "target": target,
        "errors": sum(report.errors for report in reports),
        "warnings": sum(report.warnings for report in reports),
        "findings": [dataclasses.asdict(finding) for report in reports for finding in report.findings],
        "providers": [
            {
                "mount": report.mount,
                "prefix": report.prefix,
                "states": [dataclasses.asdict(state) for state in report.states],
            }
            for report in reports
        ],
    }
    return json.dumps(document, indent=2, default=_plain)


def _checks_as_json(target: str, examined: Sequence[tuple[str, Sequence[Check]]], problems: int) -> str:
    document = {
        "format": FORMAT,
        "target": target,
        "problems": problems,
        "checks": [{"mount": path, **check._asdict()} for path, checks in examined for check in checks],
    }
    return json.dumps(document, indent=2)


def _check_lines(
    target: str, examined: Sequence[tuple[str, Sequence[Check]]], problems: int, paint: _Paint
) -> Iterator[str]:
    colours = {"ok": _GREEN, "note": _YELLOW, "problem": _RED}
    for path, checks in examined:
        yield target if path == "/" else f"{target}, mounted at {path}"
        for check in checks:
            indent = " " * (2 + 9 + 12)
            first, *rest = _wrap(check.message, WIDTH - len(indent)) or [""]
            yield f"  {paint(f'{check.level:<9}', colours[check.level])}{check.about:<12}{first}"
            yield from (indent + line for line in rest)
    yield paint(_count(problems, "problem") if problems else "No problems.", _RED if problems else _GREEN)


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} has no place in the document")


class _Paint:
    """Colours for a terminal, and none for anything else. Lifetime: one run."""

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
"""Who gets at the events of a state that has no rule."""


def _as_text(target: str, reports: Sequence[AuditReport], paint: _Paint) -> str:
    lines: list[str] = []
    for report in reports:
        where = target if report.mount == "/" else f"{target}, mounted at {report.mount}"
        lines += [f"{where}: {_count(len(report.states), 'state')}", ""]
        for state in report.states:
            open_events = {finding.event for finding in report.findings if _is_open(finding, state)}
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


def _is_open(finding: Finding, state: StateReport) -> bool:
    return finding.code == "unguarded" and finding.state == state.name


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _state_lines(state: StateReport, open_events: set[str | None], paint: _Paint) -> Iterator[str]:
    yield paint(state.name, _BOLD)
    yield from _labelled("class", state.cls)
    yield from _labelled("scope", f"{state.scope.name}, {_SHARED_BY[state.scope]}")
    yield from _labelled("ttl", "never dropped" if state.ttl is None else f"dropped after {_seconds(state.ttl)} unused")
    rule = _listed(_asked(state.guards)) or "none"
    yield from _labelled("rule", f"{rule}; public, as declared" if state.public else rule)
    yield from _labelled("owner", _owner(state.owner))
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
    """A list whose short items are not broken over lines."""
    return ", ".join(item.replace(" ", _GLUE) if len(item) <= _SHORT else item for item in items)


def _seconds(seconds: float) -> str:
    return f"{seconds:,.10g} s"


def _owner(owner: str | None) -> str:
    if owner is None:
        return "none"
    return f"the {owner}" if owner == USER_OF_THE_KEY else f"the field {owner}"


def _asked(guards: Guards) -> Iterator[str]:
    if guards.requires_auth and not (guards.permissions or guards.roles or guards.owner_only):
        yield "signed in"  # which the others imply
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
