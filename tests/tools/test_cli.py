"""The command and its report: what is shared and unguarded fails a build, and nothing that may be secret is printed."""

from __future__ import annotations

import enum
import errno
import functools
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NewType, Union

import pytest
from fasthtml.common import FastHTML
from pydantic import BaseModel, Field, computed_field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from faststate import (
    AsSignal,
    Bound,
    Component,
    ReactiveState,
    Record,
    ServerOnly,
    StateConfig,
    StateProvider,
    StateScope,
    Visible,
    event,
    fast_app,
    requires_auth,
)
from faststate.tools.audit import (
    LEVELS,
    USER_OF_THE_KEY,
    Argument,
    AuditReport,
    EventReport,
    FieldReport,
    Finding,
    Guards,
    StateReport,
    TakenState,
    audit,
    providers_of,
    type_name,
)
from faststate.tools.cli import main
from tests.support import ROOT
from tests.support.forks import run_module

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))

OPEN = """
from fasthtml.common import *
from faststate import *

provider = StateProvider()

@provider.state(scope=StateScope.GLOBAL)
class Banner(ReactiveState):
    text: str = "hunter2"
    key: ServerOnly[str] = "hunter2"

    @event
    def say(self, text: str = "hunter2"):
        self.text = text

app, rt = fast_app(state_provider=provider)
"""
GUARDED = OPEN.replace("@event", "@event(requires_auth=True)")
WARNED = OPEN.replace("@event", "@event(owner_only=True)")


COMMAND = [sys.executable, "-m", "faststate", "audit", "shop:app"]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, in which others find the same packages."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def run(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, command: tuple[str, ...] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command as a shell does, in `cwd`; without a `command`, `python -m faststate` in a fork."""
    env = environment(**(env or {}))
    if command is None:
        return run_module("faststate", *arguments, cwd=cwd, env=env)
    return subprocess.run([*command, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=30)


def write(directory: Path, **sources: str) -> Path:
    for name, source in sources.items():
        (directory / f"{name}.py").write_text(source)
    return directory


# -- the command -------------------------------------------------------------------------------------------------------


def test_an_unguarded_event_of_a_shared_state_fails_the_build(tmp_path):
    done = run("audit", "shop:app", cwd=write(tmp_path, shop=OPEN))
    assert done.returncode == 1 and done.stderr == ""
    assert "error: Banner.say: anyone may send it" in done.stdout
    assert re.search(r"^  events +say\(text: str = \.\.\.\)  anyone$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("1 error, 0 warnings\n")


def test_a_guarded_event_passes_and_its_guard_is_listed(tmp_path):
    done = run("audit", "shop:app", cwd=write(tmp_path, shop=GUARDED))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^  events +say\(text: str = \.\.\.\)  signed in$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("\nNothing found.\n")


def test_all_that_a_state_says_of_itself_is_listed(tmp_path):
    source = """
from typing import Annotated
from pydantic import computed_field
from faststate import *

def may(user, state, action):
    return True

provider = StateProvider()

@provider.state(scope=StateScope.SESSION, ttl=90, permissions=["shop"], authorize=may, on_login="to_user", name="Bag")
class Basket(ReactiveState):
    note: Bound[str] = ""
    items: list[str] = []
    cost: Annotated[int, Visible("finance")] = 0
    key: ServerOnly[str] = ""

    @computed_field
    @property
    def count(self) -> int:
        return len(self.items)

    @event(roles=["buyer"], owner_only=True)
    def order(self, now: bool): ...

@provider.state(scope=StateScope.GLOBAL, public=True)
class Wall(ReactiveState):
    owner_id: int = 0

    @event
    def write(self): ...
"""
    done = run("audit", "shop:provider", cwd=write(tmp_path, shop=source))
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout
        == """\
shop:provider: 2 states

Bag
  class        shop.Basket
  scope        SESSION, one per browser session
  ttl          dropped after 90 s unused
  rule         permission "shop", authorize shop.may
  owner        the user of the key
  on login     given to the user; signed in, one per user
  signals      cost (visible to "finance"), count (computed)
  bound        note (client may set)
  views only   items
  server only  key
  events       order(now: bool)  its session, permission "shop", role "buyer", owner only,
                                 authorize shop.may

Wall
  class        shop.Wall
  scope        GLOBAL, one for all
  ttl          never dropped
  rule         none; public, as declared
  owner        the field owner_id
  signals      owner_id
  events       write()  anyone

Nothing found.
"""
    )


def test_a_warning_fails_the_build_only_when_strict(tmp_path):
    write(tmp_path, shop=WARNED)
    lenient, strict = (run("audit", "shop:app", *more, cwd=tmp_path) for more in ((), ("--strict",)))
    assert (lenient.returncode, strict.returncode) == (0, 1)
    assert lenient.stdout == strict.stdout
    assert "warning: Banner.say: owner_only denies everybody" in lenient.stdout


def test_strict_passes_where_nothing_is_found(tmp_path):
    assert run("audit", "shop:app", "--strict", cwd=write(tmp_path, shop=GUARDED)).returncode == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_passes_the_audit(name, tmp_path):
    done = run("audit", f"{name}:app", "--app-dir", str(ROOT / "examples"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 errors, " in done.stdout or done.stdout.endswith("\nNothing found.\n")


def test_values_are_never_printed_as_they_may_be_secrets(tmp_path):
    write(tmp_path, shop=OPEN)
    for more in ((), ("--json",)):
        done = run("audit", "shop:app", *more, cwd=tmp_path)
        assert "say" in done.stdout and "hunter2" not in done.stdout + done.stderr


def test_the_json_document_is_all_that_is_on_stdout_even_of_an_app_that_prints(tmp_path):
    done = run("audit", "shop:app", "--json", cwd=write(tmp_path, shop="print('hello from shop')\n" + OPEN))
    assert done.returncode == 1 and done.stderr == "hello from shop\n"
    found = json.loads(done.stdout)
    assert (found["format"], found["target"], found["errors"], found["warnings"]) == (1, "shop:app", 1, 0)
    (finding,) = found["findings"]
    assert finding.items() >= {"level": "error", "code": "unguarded", "state": "Banner", "event": "say"}.items()
    (provider,) = found["providers"]
    assert (provider["mount"], provider["prefix"]) == ("/", "/_faststate")
    (state,) = provider["states"]
    assert (state["name"], state["cls"], state["scope"], state["ttl"]) == ("Banner", "shop.Banner", "global", None)
    assert [(f["name"], f["exposure"]) for f in state["fields"]] == [("text", "signal"), ("key", "server")]
    assert state["events"][0]["arguments"] == [{"name": "text", "type": "str", "optional": True}]


def test_the_app_is_found_as_a_server_finds_it(tmp_path):
    made = GUARDED + "\ndef make():\n    return app\nclass site:\n    app = app\n"
    (tmp_path / "pkg").mkdir()
    write(tmp_path / "pkg", __init__="", web=GUARDED, made=made)
    for arguments in (
        ("pkg.web:app",),
        ("pkg.web:provider",),
        ("pkg.made:site.app",),
        ("pkg.made:make", "--factory"),
        ("web:app", "--app-dir", "pkg"),
    ):
        done = run("audit", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert done.stdout.startswith(f"{arguments[0]}: 1 state\n\nBanner\n")


BAD = {
    "raises": "raise RuntimeError('no database\\nat all')",
    "exits": "raise SystemExit(3)",
    "imports": "import nothing_like_it",
    "broken": "def f(:",
    "empty": "app = 1\ndef make():\n    raise LookupError('no config')\ndef good():\n    return app",
    "lazy": "def __getattr__(name):\n    raise RuntimeError('not today')",
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["raises:app"], "importing raises failed: RuntimeError: no database (--traceback shows where)"),
        (["exits:app"], "importing exits failed: SystemExit: 3 "),
        (["imports:app"], "importing imports failed: ModuleNotFoundError: No module named 'nothing_like_it' "),
        (["broken:app"], "importing broken failed: SyntaxError: "),
        (["lazy:app"], "looking up lazy:app failed: RuntimeError: not today "),
        (["empty:app"], "empty:app has no StateProvider: name an app that one was set up with, not a int"),
        (["empty:nope"], "empty has no 'nope'"),
        (["empty:make"], "empty:make is a function: if it makes the app, add --factory"),
        (["empty:make", "--factory"], "calling empty:make failed: LookupError: no config "),
        (["empty:good", "--factory"], "empty:good has no StateProvider"),
        (["empty:app", "--factory"], "empty:app is not a factory: it is a int"),
        (["absent.web:app"], "there is no module 'absent.web' in "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_an_app_that_cannot_be_audited_is_exit_2_and_one_line(arguments, said, tmp_path):
    done = run("audit", *arguments, cwd=write(tmp_path, **BAD))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"faststate audit: error: {said}")


WRONG_TARGETS = ["shop", ":app", "shop:", "shop.py:app:x", "examples/shop.py:app", ".shop:app"]
WRONG_OPTIONS = ["a:b c", "a:b --loud", "a:b --app-dir /no/such/directory"]


@pytest.mark.parametrize("line", ["", "nothing", "audit", *(f"audit {each}" for each in WRONG_TARGETS + WRONG_OPTIONS)])
def test_a_wrong_command_is_exit_2_and_one_line(line, capsys):
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("faststate") and printed.err.count("\n") == 1


def test_options_are_not_abbreviated_as_a_new_one_could_change_what_they_mean(capsys):
    assert main(["audit", "a:b", "--strict", "--js"]) == 2
    assert "unrecognized arguments: --js" in capsys.readouterr().err


def test_help_is_exit_0_and_names_every_option(capsys):
    assert main(["audit", "--help"]) == 0
    shown = capsys.readouterr().out
    assert set(re.findall(r"--[a-z]+[a-z-]*", shown)) == set(re.findall(r"`(--[a-z-]+)", _page())) | {"--help"}


def test_traceback_shows_where_an_import_failed(tmp_path):
    write(tmp_path, **BAD)
    done = run("audit", "raises:app", "--traceback", cwd=tmp_path)
    assert done.returncode == 2 and 'raises.py", line 1' in done.stderr
    assert done.stderr.splitlines()[-1].startswith("faststate audit: error: importing raises failed")
    assert "Traceback" not in run("audit", "empty:nope", "--traceback", cwd=tmp_path).stderr


def test_lines_fit_in_100_columns(tmp_path):
    many = "".join(f"    field_number_{i}: str = ''\n" for i in range(20))
    long = ", ".join(f"argument_number_{i}: Literal['{'x' * 30}']" for i in range(6))
    source = f'''
from typing import Literal
from faststate import *
provider = StateProvider()

@provider.state(scope=StateScope.RECORD, permissions=["{"p" * 60}", "{"q" * 60}"])
class Wide(ReactiveState):
{many}
    @event(roles=["some role", "another role", "a third role", "a fourth role"])
    def everything(self, {long}): ...
    @event(owner_only=True)
    def nothing(self): ...
'''
    done = run("audit", "wide:provider", cwd=write(tmp_path, wide=source))
    assert done.returncode == 0 and "field_number_19" in done.stdout and "a fourth role" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert done.stdout.count("Literal['" + "x" * 30 + "']") == 6  # words are not broken where a line can be


def test_colours_are_for_terminals_alone_and_not_where_no_color_is_set(tmp_path, monkeypatch):
    pty = pytest.importorskip("pty")  # not on Windows
    monkeypatch.delenv("NO_COLOR", raising=False)
    write(tmp_path, shop=OPEN)

    def on_a_terminal(**env: str) -> str:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(COMMAND, cwd=tmp_path, env=environment(**{"TERM": "xterm", **env}), stdout=theirs)
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65_536):
                seen += piece
        except OSError as error:  # how Linux says that the other side is closed
            if error.errno != errno.EIO:
                raise
        os.close(ours)
        assert process.wait(30) == 1
        return seen.decode().replace("\r\n", "\n")

    plain = run("audit", "shop:app", cwd=tmp_path).stdout
    coloured = on_a_terminal()
    assert "\x1b[31merror\x1b[0m: Banner.say" in coloured
    assert "  \x1b[31manyone\x1b[0m\n" in coloured  # the open event, in the list of all
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert on_a_terminal(NO_COLOR="1") == plain
    assert on_a_terminal(TERM="dumb") == plain


def test_a_reader_that_leaves_early_gets_no_traceback_and_the_exit_code_stands(tmp_path):
    write(tmp_path, shop=OPEN)
    read, written = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            COMMAND, cwd=tmp_path, env=environment(), stdout=written, stderr=subprocess.PIPE, timeout=30
        )
    finally:
        os.close(written)
    assert (done.returncode, done.stderr) == (1, b"")


def test_names_that_the_terminal_cannot_write_do_not_stop_the_report(tmp_path):
    source = OPEN.replace("@event", "@event(roles=['r\N{LATIN SMALL LETTER E WITH ACUTE}dacteur'])")
    command, env = (sys.executable, "-m", "faststate"), {"PYTHONIOENCODING": "ascii"}
    done = run("audit", "shop:app", cwd=write(tmp_path, shop=source), env=env, command=command)
    assert (done.returncode, done.stderr) == (0, "") and "r\\xe9dacteur" in done.stdout


def test_the_console_script_is_this_command(tmp_path):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert EntryPoint("faststate", scripts["faststate"], "console_scripts").load() is main
    installed = shutil.which("faststate", path=str(Path(sys.executable).parent))
    if installed is not None:
        done = run("audit", "shop:app", cwd=write(tmp_path, shop=OPEN), command=(installed,))
        assert done.returncode == 1 and "error: Banner.say" in done.stdout


# -- the report --------------------------------------------------------------------------------------------------------


def registered(cls: type[ReactiveState], *others: type[ReactiveState], **config: Any) -> StateProvider:
    provider = StateProvider()
    for other in others:
        provider.register_state(other)
    provider.register_state(cls, StateConfig(**config))
    return provider


def report_of(cls: type[ReactiveState], **config: Any) -> StateReport:
    return audit(registered(cls, **config)).states[0]


def codes(report: AuditReport) -> list[str]:
    return [finding.code for finding in report.findings]


def talking(*, own: Mapping[str, Any] | None = None) -> type[ReactiveState]:
    class Talk(ReactiveState):
        text: str = ""

        @event(**(own or {}))
        def say(self, text: str):
            self.text = text

    return Talk


@pytest.mark.parametrize("scope", StateScope)
def test_without_a_rule_only_what_all_share_is_an_error(scope):
    report = audit(registered(talking(), scope=scope, ttl=60))
    shared = scope in (StateScope.GLOBAL, StateScope.RECORD)
    assert codes(report) == (["unguarded"] if shared else [])
    assert (report.errors, report.warnings) == (int(shared), 0)


def may(user: Any, state: Any, action: str) -> bool:
    return False


RULES = [{"requires_auth": True}, {"permissions": ["p"]}, {"roles": ["r"]}]


@pytest.mark.parametrize("rule", [*RULES, {"owner_only": True}], ids=str)
def test_any_guard_of_the_event_is_a_rule(rule):
    report = audit(registered(talking(own=rule), scope=StateScope.GLOBAL))
    assert report.errors == 0
    assert report.states[0].events[0].own.restrict


@pytest.mark.parametrize("rule", [*RULES, {"authorize": may}], ids=lambda rule: next(iter(rule)))
def test_a_rule_of_the_class_guards_its_events(rule):
    report = audit(registered(talking(), scope=StateScope.GLOBAL, **rule))
    assert report.findings == ()
    (said,) = report.states[0].events
    assert said.own == Guards() and said.guards == report.states[0].guards != Guards()


def test_guards_of_the_class_and_of_the_event_are_both_asked():
    state = report_of(talking(own={"permissions": ["p", "q"]}), permissions=["p"], roles=["r"])
    assert state.guards == Guards(permissions=("p",), roles=("r",))
    assert state.events[0].own == Guards(permissions=("p", "q"))
    assert state.events[0].guards == Guards(permissions=("p", "q"), roles=("r",))


@pytest.mark.parametrize("over", [True, False], ids=["over", "under"])
def test_requires_auth_guards_an_event_from_over_it_and_from_under_it(over):
    guard = requires_auth(roles=["r"])

    class Talk(ReactiveState):
        def say(self): ...

        say = guard(event(say)) if over else event(guard(say))

    report = audit(registered(Talk, scope=StateScope.GLOBAL))
    assert report.findings == ()
    assert report.states[0].events[0].own == Guards(requires_auth=True, roles=("r",))


class May:
    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __call__(self, user: Any, state: Any, action: str) -> bool:
        return True

    def __repr__(self) -> str:
        return self.secret


@pytest.mark.parametrize(
    ("authorize", "name"),
    [
        (may, "may"),
        (functools.partial(functools.partial(may), "hunter2"), "may"),
        (May("hunter2"), "May"),
        (May("hunter2").__call__, "May.__call__"),
    ],
    ids=["function", "partial", "object", "method"],
)
def test_an_authorize_callable_is_reported_by_its_name_alone(authorize, name):
    assert report_of(talking(), authorize=authorize).guards == Guards(authorize=f"{__name__}.{name}")


@pytest.mark.parametrize("scope", [StateScope.GLOBAL, StateScope.RECORD])
def test_public_says_that_an_open_state_is_meant(scope):
    report = audit(registered(talking(), scope=scope, ttl=60, public=True))
    assert report.findings == () and report.states[0].public


def test_public_does_not_hide_other_findings():
    report = audit(registered(talking(own={"owner_only": True}), scope=StateScope.RECORD, public=True))
    assert codes(report) == ["unbounded-records", "no-owner"]


def test_each_unguarded_event_is_reported_and_no_guarded_one():
    class Board(ReactiveState):
        @event
        def open(self): ...

        @event(roles=["r"])
        def guarded(self): ...

        @event
        async def also_open(self): ...

        def no_event(self): ...

    report = audit(registered(Board, scope=StateScope.GLOBAL), "/board")
    assert [(f.mount, f.state, f.event) for f in report.findings] == [
        ("/board", "Board", "open"),
        ("/board", "Board", "also_open"),
    ]


def test_events_of_a_base_class_are_reported_too_and_overridden_ones_as_they_are_now():
    class Base(ReactiveState):
        @event
        def kept(self): ...

        @event
        def tightened(self): ...

        @event
        def removed(self): ...

    class Derived(Base):
        @event(roles=["r"])
        def tightened(self): ...

        removed: ClassVar[None] = None

    report = audit(registered(Derived, scope=StateScope.GLOBAL))
    assert [finding.event for finding in report.findings] == ["kept"]
    assert [e.name for e in report.states[0].events] == ["kept", "tightened"]


def test_a_shared_state_without_events_is_only_shown():
    class Shown(ReactiveState):
        text: Bound[str] = ""  # set together with an event, and there is none

    assert audit(registered(Shown, scope=StateScope.GLOBAL)).findings == ()


def test_the_error_names_the_bound_fields_that_anyone_may_set():
    class Draft(ReactiveState):
        title: Bound[str] = ""
        body: Bound[str] = ""
        kept: str = ""

        @event
        def save(self): ...

    (finding,) = audit(registered(Draft, scope=StateScope.GLOBAL)).findings
    assert finding.level == "error" and "(and set title and body with it)" in finding.message


def test_fields_are_reported_by_how_far_they_get():
    class Pay(BaseModel):
        amount: int = 0

    class Person(ReactiveState):
        name: str = ""
        tags: list[str] = []
        sent: AsSignal[list[str]] = []
        draft: Bound[str] = ""
        secret: ServerOnly[str] = ""
        pay: Pay = Pay()
        grade: Annotated[int, Visible("hr")] = 0
        note: Annotated[Bound[str], Visible("hr")] = ""
        _private: int = 0

        @computed_field
        @property
        def initial(self) -> str:
            return self.name[:1]

        @computed_field
        @property
        def words(self) -> list[str]:
            return self.name.split()

        @computed_field
        @property
        def rank(self) -> Annotated[int, Visible("boss")]:
            return self.grade

        @property
        def plain(self) -> str:
            return self.name

    assert report_of(Person).fields == (
        FieldReport("name", "signal"),
        FieldReport("tags", "views"),
        FieldReport("sent", "signal"),
        FieldReport("draft", "signal", bound=True),
        FieldReport("secret", "server"),
        FieldReport("pay", "views"),
        FieldReport("grade", "signal", permission="hr"),
        FieldReport("note", "signal", bound=True, permission="hr"),
        FieldReport("initial", "signal", computed=True),
        FieldReport("words", "views", computed=True),
        FieldReport("rank", "signal", computed=True, permission="boss"),
    )


def test_arguments_are_reported_with_types_and_without_values():
    class Typed(ReactiveState):
        @event
        def send(self, text: Annotated[str, Field("hunter2")], *, times: int | None = 7, word: str = "hunter2"): ...

    (sent,) = report_of(Typed).events
    assert sent.arguments == (
        Argument("text", "str"),
        Argument("times", "int | None", optional=True),
        Argument("word", "str", optional=True),
    )


class Colour(enum.Enum):
    RED = "hunter2"


Sku = NewType("Sku", str)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (None, "None"),
        (Any, "Any"),
        (Union[int, None], "int | None"),  # noqa: UP007
        (int | str | None, "int | str | None"),
        (dict[str, list[Annotated[int, Field(gt=3)]]], "dict[str, list[int]]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Literal["a", 1, Colour.RED], "Literal['a', 1, Colour.RED]"),
        (Annotated[Sku, "hunter2"], "Sku"),
        (Colour, "Colour"),
        (functools.partial(print, "hunter2"), "partial"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_type_reads_as_it_was_written(annotation, text):
    assert type_name(annotation) == text


def test_ttl_is_in_seconds_and_null_where_a_state_is_never_dropped():
    class Idle(ReactiveState): ...

    assert report_of(Idle, ttl=60).ttl == 60
    assert report_of(Idle, ttl=float("inf")).ttl is None
    assert report_of(Idle, scope=StateScope.GLOBAL).ttl is None
    assert report_of(Idle, scope=StateScope.SESSION).ttl == 86_400


def test_a_class_is_reported_by_its_registered_name_and_by_its_own():
    state = report_of(talking(), name="Chat")
    assert state.name == "Chat"
    assert state.cls == f"{__name__}.talking.<locals>.Talk"


@pytest.mark.parametrize("field", ["user_id", "owner_id"])
def test_a_field_may_name_the_owner(field):
    cls = type("Owned", (talking(own={"owner_only": True}),), {"__annotations__": {field: int}, field: 0})
    report = audit(registered(cls, scope=StateScope.GLOBAL))
    assert report.states[0].owner == field and report.findings == ()


def test_the_config_may_name_the_field_of_the_owner():
    class Paper(ReactiveState):
        author: int = 0
        user_id: int = 0

        @event(owner_only=True)
        def write(self): ...

    report = audit(registered(Paper, scope=StateScope.GLOBAL, owner="author"))
    assert report.states[0].owner == "author" and report.findings == ()


@pytest.mark.parametrize("config", [{"scope": StateScope.USER}, {"on_login": "to_user"}], ids=["USER", "to_user"])
def test_a_user_owns_the_state_whose_key_names_one(config):
    report = audit(registered(talking(own={"owner_only": True}), **config))
    assert report.states[0].owner == USER_OF_THE_KEY and report.findings == ()


def test_on_login_is_reported_where_a_sign_in_changes_something():
    assert report_of(talking()).on_login == "keep"
    assert report_of(talking(), scope=StateScope.COMPONENT, on_login="drop").on_login == "drop"
    assert report_of(talking(), on_login="to_user").on_login == "to_user"
    assert report_of(talking(), scope=StateScope.USER).on_login is None


def test_owner_only_on_a_state_without_an_owner_is_a_warning():
    report = audit(registered(talking(own={"owner_only": True}), scope=StateScope.GLOBAL))
    assert report.states[0].owner is None
    assert [(f.level, f.code, f.event) for f in report.findings] == [("warning", "no-owner", "say")]


class Item(ReactiveState):
    stock: int = 0


class Basket(ReactiveState):
    @event
    def add(self, sku: str, item: Annotated[Item, Record("sku")]): ...


def basket(basket: StateConfig | None = None, **item: Any) -> AuditReport:
    provider = StateProvider()
    provider.register_state(Item, StateConfig(**{"scope": StateScope.RECORD, "ttl": 60, **item}))
    provider.register_state(Basket, basket)
    return audit(provider)


def test_a_record_that_the_client_chooses_is_a_warning_unless_its_class_has_a_rule():
    report = basket()
    assert [(f.level, f.code, f.state, f.event) for f in report.findings] == [
        ("warning", "chosen-record", "Basket", "add")
    ]
    assert "by the argument sku" in report.findings[0].message
    assert report.states[1].events[0].states == (TakenState("item", "Item", "sku"),)
    assert report.states[1].events[0].arguments == (Argument("sku", "str"),)
    assert codes(basket(StateConfig(requires_auth=True))) == ["chosen-record"]
    assert codes(basket(roles=["r"])) == []
    assert codes(basket(authorize=may)) == []
    assert codes(basket(public=True)) == []


def test_a_shared_state_that_an_open_event_takes_along_is_a_warning():
    class Total(ReactiveState): ...

    class Till(ReactiveState):
        @event
        def open(self, total: Total): ...

        @event(requires_auth=True)
        def guarded(self, total: Total): ...

    provider = registered(Till)
    provider.register_state(Total, StateConfig(scope=StateScope.GLOBAL))
    assert [(f.level, f.code, f.event) for f in audit(provider).findings] == [("warning", "shared-state", "open")]
    for settled in ({"roles": ["r"]}, {"public": True}):
        provider = registered(Till)
        provider.register_state(Total, StateConfig(scope=StateScope.GLOBAL, **settled))
        assert audit(provider).findings == ()


def test_a_state_of_the_session_may_be_taken_along():
    class Left(ReactiveState): ...

    class Both(ReactiveState):
        @event
        def swap(self, left: Annotated[Left, Component("left")]): ...

    provider = registered(Both)
    provider.register_state(Left, StateConfig(scope=StateScope.COMPONENT))
    report = audit(provider)
    assert report.findings == () and report.states[0].events[0].states == (TakenState("left", "Left"),)


def test_an_event_over_a_state_that_is_not_registered_is_a_warning():
    (finding,) = audit(registered(Basket)).findings
    assert (finding.level, finding.code, finding.event) == ("warning", "unregistered", "add")
    assert "it takes Item" in finding.message


def test_records_that_any_id_makes_and_nothing_drops_are_a_warning():
    class Page(ReactiveState): ...

    assert codes(audit(registered(Page, scope=StateScope.RECORD))) == ["unbounded-records"]
    assert codes(audit(registered(Page, scope=StateScope.RECORD, ttl=float("inf")))) == ["unbounded-records"]
    assert codes(audit(registered(Page, scope=StateScope.RECORD, ttl=60))) == []
    assert codes(audit(registered(Page, scope=StateScope.RECORD, create=lambda identifier: None))) == []


def test_errors_come_before_warnings():
    provider = registered(Basket, Item)
    provider.register_state(talking(), StateConfig(scope=StateScope.RECORD))
    report = audit(provider)
    assert codes(report) == ["unguarded", "unbounded-records"]


# -- which providers ---------------------------------------------------------------------------------------------------


class Wrapping:
    """A middleware, as far as an audit looks at it."""

    def __init__(self, app: Any) -> None:
        self.app = app


class Hiding:
    """A middleware that keeps what it wraps under a name of its own."""

    def __init__(self, app: Any) -> None:
        self._inner = app


@pytest.fixture
def new_app(in_tmp_path):
    def new_app(provider: StateProvider | None = None) -> FastHTML:
        return fast_app(state_provider=provider)[0]

    return new_app


def test_apps_mounted_below_an_app_are_audited_too(new_app):
    outer, inner, deep = StateProvider(), StateProvider(), StateProvider()
    app, sub = new_app(outer), new_app(inner)
    sub.mount("/deep", Starlette(routes=[Mount("/er", new_app(deep), middleware=[Middleware(Hiding)])]))
    app.mount("/sub", Wrapping(sub))
    assert providers_of(app) == [("/", outer), ("/sub", inner), ("/sub/deep/er", deep)]


def test_an_app_without_a_provider_may_hold_one_that_has_it(new_app):
    inner = StateProvider()
    site = Starlette(routes=[Mount("/a", new_app(inner)), Mount("/b", routes=[Mount("/c", new_app())])])
    assert providers_of(Wrapping(site)) == [("/a", inner)]
    assert providers_of(new_app()) == [] and providers_of(None) == [] and providers_of(42) == []


def test_a_provider_of_two_apps_is_audited_once(new_app):
    shared = StateProvider()
    app = new_app(shared)
    app.mount("/again", new_app(shared))
    assert providers_of(app) == [("/", shared)] and providers_of(shared) == [("/", shared)]


def test_a_mounted_app_that_is_open_fails_the_build(tmp_path):
    outer = GUARDED + "\nimport inner\napp.mount('/inner', inner.app)\n"
    done = run("audit", "outer:app", cwd=write(tmp_path, outer=outer, inner=OPEN))
    assert done.returncode == 1
    assert "outer:app, mounted at /inner: 1 state" in done.stdout and "error: Banner.say (at /inner): " in done.stdout


# -- the page about it -------------------------------------------------------------------------------------------------


def _page() -> str:
    return (ROOT / "docs" / "audit.md").read_text()


def test_the_documentation_shows_what_the_command_prints(tmp_path):
    source, shown = (re.search(rf"^```{kind}\n(.*?)^```$", _page(), re.M | re.S)[1] for kind in ("python", "text"))
    done = run("audit", "shop:app", cwd=write(tmp_path, shop=source))
    assert done.stdout == shown and done.returncode == 1


def test_the_documentation_has_every_finding_with_its_level():
    table = _page().partition("## Findings")[2].partition("##")[0]
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (\w+) \|", table, re.MULTILINE)) == LEVELS


def test_the_documentation_has_every_key_of_the_json_document():
    table = _page().partition("## JSON")[2]
    rows = {
        what: set(re.findall(r"`([a-z_]+)`", keys)) for what, keys in re.findall(r"^\| (.*?) \| (.*) \|$", table, re.M)
    }
    for what, cls in {
        "a finding": Finding,
        "a state": StateReport,
        "a field": FieldReport,
        "an event": EventReport,
        "guards": Guards,
        "an argument": Argument,
        "a state of an event": TakenState,
    }.items():
        assert {field.name for field in fields(cls)} <= rows[what], what
    assert inspect.signature(AuditReport).parameters.keys() - {"findings"} == rows["a provider"]
