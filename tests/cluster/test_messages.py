"""Messages between processes: each comes back as it was sent, and one of another version crashes nobody."""

import json

import pytest

from faststate.cluster.messages import (
    FORMAT,
    Broadcast,
    ProcessStats,
    ReloadPages,
    RightsChanged,
    RowChanged,
    SessionEnded,
    ShowState,
    StateChanged,
    StateRemoved,
    Typed,
    decode,
    decode_stats,
    encode,
    encode_stats,
)
from faststate.scopes import Version

TYPED = Typed("page", "session", {"text": "\nä"})
MESSAGES = [
    StateChanged(None, Version("life", 1)),
    StateChanged(Version("life", 1), Version("life", 2), ("a", "b"), TYPED, b"data: {}\n\n", b'{"a":\n1}\x00'),
    RowChanged(None),
    RowChanged(Version("row", 7), TYPED),
    StateRemoved(),
    Broadcast({"count": 1, "text": "x"}, None),
    Broadcast({}, "ann"),
    ShowState("page", None),
    SessionEnded("s", '["successor", null]', 60.5),
    ReloadPages("s"),
    RightsChanged("7", "refresh"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was_sent(message):
    found = decode(encode(message))
    assert found == message
    assert type(found) is type(message)


def test_what_a_process_tells_of_itself_comes_back():
    told = ProcessStats("epoch", {"states": 3, "lag": 0.5})
    assert decode_stats(encode_stats(told)) == told


def as_sent_by_another_version(**changes):
    head, _, rest = encode(MESSAGES[1]).partition(b"\n")
    found = {**json.loads(head), **changes}
    return json.dumps({name: value for name, value in found.items() if value is not None}).encode() + b"\n" + rest


@pytest.mark.parametrize(
    "body",
    [
        as_sent_by_another_version(v=FORMAT + 1),
        as_sent_by_another_version(v=None),
        as_sent_by_another_version(kind="merged"),
        as_sent_by_another_version(kind=["changed"]),
        as_sent_by_another_version(unknown=1),
        as_sent_by_another_version(version=3),
        as_sent_by_another_version(typed=["page"]),
        as_sent_by_another_version(sizes="x"),
        b"",
        b"\xff\n",
        b"[]\n",
        b"no message",
    ],
)
def test_a_message_of_an_unknown_version_is_passed_over_with_one_line_in_the_log(body, caplog):
    assert decode(body) is None
    assert len(caplog.records) == 1
    assert "is passed over" in caplog.text


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"v": 99, "process": "a", "stats": {}}'])
def test_counters_of_an_unknown_version_are_not_counted(body):
    assert decode_stats(body) is None
