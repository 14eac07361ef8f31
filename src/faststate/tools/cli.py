"""The command: `faststate audit module:app` lists what an app exposes, `faststate doctor` checks what it runs on."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ..provider.provider import StateProvider
from .audit import audit, providers_of
from .doctor import examine
from .report import Paint, audit_as_json, audit_as_text, checks_as_json, checks_as_text, problems_in

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (by default the arguments of the process) and return its exit code.

    0: nothing found. 1: an event is shared and unguarded (or, with --strict, there is a warning), or the doctor found a
    problem. 2: the command or the app is wrong; one line on stderr says how.
    """
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has written the help or the error
        return stop.code if isinstance(stop.code, int) else 2
    try:
        target = _load(options.target, options.app_dir, factory=options.factory)
        found = providers_of(target)
        if not found:
            raise UsageError(_without_provider(options.target, target))
        code: int = options.run(options, target, found)
    except UsageError as error:
        if options.traceback and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        print(f"faststate {options.command}: error: {error}", file=sys.stderr)
        return 2
    return code


_Found = Sequence[tuple[str, StateProvider]]
"""The providers that were found, each with the path that its app is mounted at."""


def _audit(options: argparse.Namespace, target: Any, found: _Found) -> int:
    reports = [audit(provider, path) for path, provider in found]
    _write(options, reports, audit_as_json, audit_as_text)
    return int(any(report.errors or (options.strict and report.warnings) for report in reports))


def _doctor(options: argparse.Namespace, target: Any, found: _Found) -> int:
    examined = [(path, asyncio.run(examine(target, provider))) for path, provider in found]
    _write(options, examined, checks_as_json, checks_as_text)
    return int(problems_in(examined) > 0)


def _write(
    options: argparse.Namespace, found: T, as_json: Callable[[str, T], str], as_text: Callable[[str, T, Paint], str]
) -> None:
    text = as_json(options.target, found) if options.json else as_text(options.target, found, Paint(sys.stdout))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python flushes once more at its end, which must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class UsageError(Exception):
    """The command is used wrongly, or the app is wrong. The message is one line; a cause has a traceback to show."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line. Lifetime: one run."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="faststate", description="Tools for apps that are made with FastState.", allow_abbrev=False)
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
    command = commands.add_parser(
        "doctor",
        allow_abbrev=False,
        help="look at what an app runs on: its store, its secret, its processes",
        description="Looks at what an app runs on, from where and with the environment that it is to run with.",
        epilog="Exit codes: 0 no problems; 1 problems; 2 the app could not be looked at. "
        "It is imported, and not started.",
    )
    command.set_defaults(run=_doctor)
    for command in commands.choices.values():
        command.add_argument("target", metavar="MODULE:ATTR", help="the app, or its StateProvider, as in shop:app")
        command.add_argument(
            "--app-dir", metavar="DIR", default=".", help="where MODULE is (default: the current directory)"
        )
        command.add_argument("--factory", action="store_true", help="ATTR is a function that makes the app")
        command.add_argument("--json", action="store_true", help="print one JSON document")
        command.add_argument("--traceback", action="store_true", help="show where an import failed")
    return parser


# -- loading -----------------------------------------------------------------------------------------------------------


def _load(target: str, app_dir: str, *, factory: bool) -> Any:
    """Return the object that `module:attr` names. Raises `UsageError`."""
    module_name, _, path = target.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*", module_name) or not re.fullmatch(r"\w+(\.\w+)*", path):
        raise UsageError(f"the app is named as MODULE:ATTR, as in shop:app, not {target!r}")
    if not Path(app_dir).is_dir():
        raise UsageError(f"--app-dir: there is no directory {app_dir!r}")
    sys.path.insert(0, os.path.abspath(app_dir))
    importlib.invalidate_caches()
    with _app_code(f"importing {module_name}"):
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the module exists, but imports one that does not
            raise UsageError(
                f"there is no module {module_name!r} in {os.path.abspath(app_dir)}: --app-dir names another directory"
            ) from None
    with _app_code(f"looking up {target}"):
        for name in path.split("."):
            if not hasattr(found, name):
                raise UsageError(f"{module_name} has no {path!r}")
            found = getattr(found, name)
    if factory:
        if not callable(found):
            raise UsageError(f"{target} is not a factory: it is a {type(found).__name__}, which cannot be called")
        with _app_code(f"calling {target}"):
            found = found()
    return found


@contextlib.contextmanager
def _app_code(doing: str) -> Iterator[None]:
    """Run code of the app: send what it prints to stderr, since stdout is for the report; turn errors into one line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"{doing} failed: {type(error).__name__}{f': {reason}' if reason else ''} (--traceback shows where)"
        raise UsageError(message) from error


def _without_provider(target: str, found: Any) -> str:
    if inspect.isroutine(found):
        return f"{target} is a function: if it makes the app, add --factory"
    return f"{target} has no StateProvider: name an app that one was set up with, not a {type(found).__name__}"
