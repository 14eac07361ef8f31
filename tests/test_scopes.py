"""Identifiers and keys: no two states share one, every key parses back, no id forges another's."""

from __future__ import annotations

import copy
import pickle
import re
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from faststate import StateIdentifier, StateScope
from faststate.exceptions import IdentifierError
from faststate.scopes import MAX_ID_LENGTH, signal_segment

HOSTILE = ":%/._-$@;'\"\\ \0\n\u2028%3A"
IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.text(
    st.sampled_from(HOSTILE + "ab1_"), min_size=1, max_size=8
)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,6}", fullmatch=True)
NEEDS = {
    StateScope.GLOBAL: (),
    StateScope.SESSION: ("session_id",),
    StateScope.USER: ("user_id",),
    StateScope.COMPONENT: ("session_id", "component_id"),
    StateScope.RECORD: ("record_id",),
    StateScope.TEMPORARY: ("session_id", "component_id"),
}
ALL_IDS = {"user_id": 7, "session_id": "s1", "component_id": "left", "record_id": 42}


@st.composite
def identifiers(draw):
    scope = draw(st.sampled_from(StateScope))
    return StateIdentifier(scope, draw(NAMES), **{name: draw(IDS) for name in NEEDS[scope]})


def facts(identifier):
    return (identifier.scope, identifier.cls_name, *(getattr(identifier, name) for name in ALL_IDS))


@pytest.mark.parametrize(
    ("scope", "key"),
    [
        (StateScope.GLOBAL, "global:Cart"),
        (StateScope.SESSION, "session:Cart:s1"),
        (StateScope.USER, "user:Cart:user7"),
        (StateScope.COMPONENT, "component:Cart:s1:component:left"),
        (StateScope.RECORD, "record:Cart:42"),
        (StateScope.TEMPORARY, "temporary:Cart:s1:left"),
    ],
)
def test_each_scope_has_its_key_and_takes_only_the_ids_it_needs(scope, key):
    identifier = StateIdentifier(scope, "Cart", **ALL_IDS)
    assert identifier.generate_key() == identifier.key == key
    assert {name for name in ALL_IDS if getattr(identifier, name) is not None} == set(NEEDS[scope])


@given(identifiers())
def test_every_key_parses_back(identifier):
    parsed = StateIdentifier.parse(identifier.key)
    assert parsed == identifier and hash(parsed) == hash(identifier)
    assert facts(parsed) == facts(identifier)


@given(identifiers(), identifiers())
@example(
    StateIdentifier(StateScope.COMPONENT, "C", session_id="a:component:b", component_id="c"),
    StateIdentifier(StateScope.COMPONENT, "C", session_id="a", component_id="b:component:c"),
)
@example(
    StateIdentifier(StateScope.TEMPORARY, "C", session_id="a", component_id="b:c"),
    StateIdentifier(StateScope.TEMPORARY, "C", session_id="a:b", component_id="c"),
)
def test_no_two_identifiers_share_a_key(one, other):
    assume(facts(one) != facts(other))
    assert one.key != other.key and one != other


@given(NAMES, IDS, IDS, IDS, IDS)
def test_no_two_pairs_of_ids_share_a_key(name, a, b, c, d):
    def component(session_id, component_id):
        return StateIdentifier(StateScope.COMPONENT, name, session_id=session_id, component_id=component_id)

    assert (component(a, b).key == component(c, d).key) == ((a, b) == (c, d))
    assert (component(a, b).key == component(b, a).key) == (a == b)


@given(identifiers())
def test_no_id_forges_a_separator(identifier):
    separators = {StateScope.GLOBAL: 1, StateScope.COMPONENT: 4, StateScope.TEMPORARY: 3}.get(identifier.scope, 2)
    assert identifier.key.count(":") == separators
    assert re.fullmatch(r"[A-Za-z0-9_.~%:-]+", identifier.key)


@given(st.text(max_size=40) | st.text(st.sampled_from(":%Aa3global" + HOSTILE), max_size=20))
@example("session:Cart:a%3a")  # the lower-case spelling of %3A
@example("session:Cart:%61")  # "a" needs no escape
@example("session:Cart:%FF")  # no UTF-8
@example("session:Cart:")
@example("session:Cart")
@example("session:Cart:a:b")
@example("component:Cart:a:part:b")
@example("user:Cart:7")
@example("Global:Cart")
@example("")
def test_a_text_that_parses_is_the_key_of_what_it_parses_to(text):
    try:
        parsed = StateIdentifier.parse(text)
    except IdentifierError as error:
        assert "not a state key" in str(error)
    else:
        assert parsed.key == text


@pytest.mark.parametrize(("scope", "missing"), [(scope, name) for scope in StateScope for name in NEEDS[scope]])
def test_a_missing_id_raises_and_is_named(scope, missing):
    given_ids = {name: None if name == missing else "x" for name in NEEDS[scope]}
    with pytest.raises(IdentifierError, match=f"{scope.value} state of Cart needs a {missing}"):
        StateIdentifier(scope, "Cart", **given_ids)
    with pytest.raises(ValueError, match="it got None"):  # it is a ValueError too
        StateIdentifier(scope, "Cart")


@pytest.mark.parametrize("value", ["", True, False, 1.5, b"a", ["a"], "\ud800", "x" * (MAX_ID_LENGTH + 1)])
def test_an_id_that_cannot_be_one_is_refused(value):
    with pytest.raises(IdentifierError, match="session_id"):
        StateIdentifier(StateScope.SESSION, "Cart", session_id=value)


@pytest.mark.parametrize("name", ["", "1a", "_a", "a-b", "a:b", "a.b", "é", "a\n", None])
def test_a_name_that_cannot_be_one_is_refused(name):
    with pytest.raises(IdentifierError, match="cannot name a state"):
        StateIdentifier(StateScope.GLOBAL, name)


def test_a_scope_must_be_a_scope():
    with pytest.raises(IdentifierError, match="StateScope"):
        StateIdentifier("global", "Cart")


def test_one_id_in_three_types_names_one_state():
    uid = UUID(int=7)
    made = {StateIdentifier(StateScope.RECORD, "C", record_id=given_id) for given_id in (uid, str(uid))}
    assert len(made) == 1
    assert StateIdentifier(StateScope.USER, "C", user_id=7) == StateIdentifier(StateScope.USER, "C", user_id="7")


def test_an_id_that_says_none_is_not_a_missing_one():
    assert StateIdentifier(StateScope.SESSION, "C", session_id="None").key == "session:C:None"


def test_an_identifier_cannot_be_changed():
    identifier = StateIdentifier(StateScope.GLOBAL, "C")
    for name in ("key", "cls_name", "session_id", "anything"):
        with pytest.raises(AttributeError, match=name):
            setattr(identifier, name, "x")
    assert identifier != "global:C"


def test_an_identifier_can_be_copied_and_pickled():
    identifier = StateIdentifier(StateScope.COMPONENT, "C", session_id="a:b", component_id=1)
    for twin in (copy.copy(identifier), copy.deepcopy(identifier), pickle.loads(pickle.dumps(identifier))):
        assert twin == identifier and facts(twin) == facts(identifier)


@given(identifiers())
def test_a_namespace_is_a_path_that_datastar_can_read(identifier):
    namespace = identifier.namespace
    assert namespace[0] == identifier.cls_name
    assert len(namespace) == (1 if identifier.instance_id is None else 2)
    for segment in namespace:
        assert re.fullmatch(r"[A-Za-z0-9_]+", segment)


@given(IDS, IDS)
@example("a", "_61_")
@example("__proto__", "_5f__5f_proto_5f__5f_")
@example("a-b", "a_2d_b")
def test_two_ids_never_share_a_signal_segment(one, other):
    assert (signal_segment(one) == signal_segment(other)) == (one == other)


def test_no_id_reaches_into_javascripts_own_objects():
    record = StateIdentifier(StateScope.RECORD, "C", record_id="__proto__")
    assert record.namespace == ("C", "_5f__5f_proto_5f__5f_")
