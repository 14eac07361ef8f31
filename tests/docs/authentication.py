"""Checks of docs/authentication.md; tests/docs/README.md says how they are written."""

# == How a user is recognised: snippet 1
# visit / 401
# visit /enter?name=ada
one = tab(app)
one.get("/enter?name=ada")
assert "Ada" in one.get("/")
one.send(Note.write, text="hi")
one.get("/enter?name=nobody"), one.get("/", 401)
one, two = tab(app), tab(app)
one.get("/enter?name=ghost")
assert "db.internal" not in one.get("/", 503)
assert "db.internal" not in one.send(Note.write, text="lost", status=503).text
two.get("/enter?name=ada")
assert ">hi<" in two.get("/")

# == Signing in and out: snippet 1
# visit / 303
one = tab(app)
asked = one.client.get("/?from=mail", follow_redirects=False).headers["location"]
assert asked == "/login?next=%2F%3Ffrom%3Dmail"
into = lambda path: one.client.post(path, data={"name": "ada"}, follow_redirects=False).headers["location"]
assert into(asked) == "/?from=mail"
assert into("/login?next=//evil.example/") == "/"
one.get("/")
kept = dict(one.client.cookies)
one.send(Note.write, text="mine")
out = one.client.post("/logout", follow_redirects=False)
assert out.headers["location"] == "/login"
one.get("/", 303)
replay = tab(app, cookies=kept)
replay.get("/", 303)

# == FastHTML's Beforeware: snippet 1
# new
# visit / 303
one = tab(app)
one.client.post("/login")
one.get("/")
one.send(Note.write, text="hi")
with one.client:
    with one.stream() as stream:
        assert stream.status_code == 200
        lines = stream.iter_lines()
        assert any('"c":' in next(lines) for _ in range(3))
        one.client.post("/logout", follow_redirects=False)
        assert "#reload" in "".join(lines)
    one.get("/", 303)
    assert '"go":"/login"' in one.send(Note.write, text="no", status=303).text
    with one.stream() as stream:
        assert stream.status_code == 204

# == FastHTML's OAuth: snippet 1
# new
# visit / 303
# visit /redirect 303
# visit /logout 303
import re


class GitHub(GitHubAppClient):
    async def retr_info_async(self, code, redirect_uri):
        from fasthtml.common import AttrDict

        return AttrDict(id=7, login="ada")


oauth.cli.__class__ = GitHub
one = tab(app)
state = re.search(r"state=([\w-]+)", one.get("/login"))[1]
one.get("/redirect?code=x&state=wrong", 303), one.get("/", 303)
state = re.search(r"state=([\w-]+)", one.get("/login"))[1]
one.get(f"/redirect?code=x&state={state}", 303), one.get("/")
assert USERS[7].username == "ada"
one.get("/logout", 303), one.get("/", 303)

# == Starlette's AuthenticationMiddleware: snippet 1
# new
# visit / 401
ada, bob = tab(app, cookies={"ticket": "a-random-ticket"}), tab(app, cookies={"ticket": "of-a-reporter"})
ada.get("/"), bob.get("/")
bob.send(Board.write, line="hi")
ada.send(Board.write, line="no", status=403)
bob.send(Board.clear, status=403)
ada.send(Board.clear)
ada.client.post("/logout", follow_redirects=False)
ada.get("/", 401), bob.get("/")

# == A signed JWT in a cookie: snippet 1
# new
# visit / 401
one = tab(app)
one.client.post("/login", follow_redirects=False)
one.get("/")
genuine = one.client.cookies["token"]
head, claims, signature = genuine.split(".")
none = jwt.encode({"sub": "ada", "exp": int(time.time()) + 60}, None, algorithm="none")
late = jwt.encode({"sub": "ada", "exp": int(time.time()) - 60}, KEY, algorithm="HS256")
for bad in (none, late, f"{head}.{claims}.", jwt.encode({"sub": "ada"}, KEY, algorithm="HS256"), "rubbish"):
    tab(app, cookies={"token": bad}).get("/", 401)
tab(app, cookies={"token": genuine}).get("/")
one.client.post("/logout", follow_redirects=False)
one.get("/", 401)
assert provider.options.stream_max_age == 3600
