"""A todo list for each browser session: open it in two tabs, and they stay in sync.

The list and the filter are views, rendered again when they change; the number of things left is a signal, computed
from the list. The form stands outside of both, so a change from another tab never touches what you type.
"""

from typing import Annotated, Literal, get_args

from fasthtml.common import *
from pydantic import BaseModel, Field, StringConstraints, computed_field

from faststate import ReactiveState, StateProvider, StateScope, event, fast_app, view

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Show = Literal["all", "active", "completed"]

provider = StateProvider()


class Todo(BaseModel):
    id: int
    text: Text
    done: bool = False


@provider.state(scope=StateScope.SESSION)
class Todos(ReactiveState):
    items: list[Todo] = Field([], max_length=100)
    last_id: int = 0
    show: Show = "all"

    @computed_field
    @property
    def left(self) -> int:
        return sum(not todo.done for todo in self.items)

    @event
    def add(self, text: Text):
        self.last_id += 1
        self.items.append(Todo(id=self.last_id, text=text))

    @event
    def toggle(self, id: int):
        for todo in self.items:
            if todo.id == id:
                todo.done = not todo.done

    @event
    def filter(self, show: Show):
        self.show = show

    @event
    def clear_completed(self):
        self.items = [todo for todo in self.items if not todo.done]

    def __ft__(self):
        shown = [todo for todo in self.items if self.show == "all" or todo.done == (self.show == "completed")]
        if not shown:
            return P("Nothing to do yet." if not self.items else f"Nothing {self.show}.", cls="empty")
        rows = (
            Label(
                Input(self.toggle.on("change", id=todo.id), type="checkbox", id=f"done-{todo.id}", checked=todo.done),
                Span(todo.text),
            )
            for todo in shown
        )
        return Ul(*(Li(row) for row in rows), cls="todos", aria_label="Todos")

    @view
    def filters(self):
        return Div(
            *(
                Button(
                    name.capitalize(),
                    self.filter.on("click", show=name),
                    id=f"show-{name}",
                    cls="" if name == self.show else "outline",
                    aria_pressed=str(name == self.show).lower(),
                )
                for name in get_args(Show)
            ),
            role="group",
            aria_label="Show",
        )


style = Style("""
    main.container { max-width: 36rem }
    .todos { padding: 0 }
    .todos li { list-style: none; margin: 0; border-bottom: 1px solid var(--pico-muted-border-color, #ddd) }
    .todos label { display: flex; margin: 0; padding: .75rem 0 }
    .todos input { flex: none; margin-top: .125em }
    .todos span { min-width: 0; overflow-wrap: anywhere }
    .todos :checked + span { color: var(--pico-muted-color, #777); text-decoration: line-through }
    .empty { padding: .75rem 0; color: var(--pico-muted-color, #777) }
""")
app, rt = fast_app(state_provider=provider, hdrs=[style], htmlkw={"lang": "en"}, htmx=False, surreal=False)


@rt
def index(todos: Todos):
    return Titled(
        "Todos",
        Form(
            Label("What needs to be done?", _for="text"),
            Fieldset(
                Input(id="text", name="text", required=True, maxlength=200, autocomplete="off", autofocus=True),
                Button("Add"),
                role="group",
            ),
            todos.add.on("submit"),
        ),
        todos,
        Footer(
            P(todos.signal.left, " left", role="status"),
            todos.filters(),
            Button("Clear completed", todos.clear_completed.on("click"), cls="secondary outline"),
        ),
    )


serve()
