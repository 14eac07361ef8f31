"""Checks of docs/security.md; tests/docs/README.md says how they are written."""

# == Rules: snippet 1
# visit / 401
# visit /documents/1 401
# visit /login?user=1 303
# visit /login?user=1 303
ada, bob, eve, evil = tab(app), tab(app), tab(app), tab(app)
ada.get("/login?user=1", 303), bob.get("/login?user=2", 303), eve.get("/login?user=3", 303)
assert "k-123" not in ada.get("/") + bob.get("/")
eve.get("/", 403), eve.get("/documents/1", 403)
ada.send(Settings.announce, text="hi")
assert ">hi<" in bob.get("/")
bob.send(Settings.announce, text="no", status=403)
evil.send(Settings.announce, text="no", status=401)
ada.send(Notes.write, text="mine")
assert ">mine<" in ada.get("/") and ">mine<" not in bob.get("/")
assert ">1250<" in ada.get("/documents/7")
seen = bob.get("/documents/7")
assert ">draft<" in seen and "1250" not in seen
bob.send(Document.edit, own_id="7", text="better")
bob.send(Document.remove, own_id="7", who=2, status=403)
ada.get("/documents/7")
ada.send(Document.remove, own_id="7", who=2)
bob.get("/documents/7", 403)
bob.send(Document.edit, own_id="7", text="again", status=403)
ada.get("/"), bob.get("/")
post = lambda headers: ada.client.post(Settings.announce.to(), json={"a": {"text": "no"}}, headers=headers).status_code
go = {"datastar-request": "true"}
assert post(go) in (200, 204)
assert post({}) == 403
assert post(go | {"sec-fetch-site": "cross-site"}) == 403
assert post(go | {"origin": "https://evil.example"}) == 403
evil.tokens = ada.tokens
evil.send(Settings.announce, text="no", status=403)
ada.tokens = ["forged"]
assert ada.send(Settings.announce, text="no", status=403).status_code == 403
big = ada.client.post(Settings.announce.to(), json={"a": {"text": "x" * 300_000}}, headers=go)
assert big.headers["faststate-status"] == "413"
deep = "[" * 40 + "]" * 40
assert "levels deep" in ada.client.post(Settings.announce.to(), content='{"a":{"text":%s}}' % deep, headers=go).text
old = tab(app)
old.get("/login?user=1", 303), old.get("/")
kept = old.tokens
old.get("/login?user=2", 303)
old.tokens = kept
assert "#reload" in old.send(Notes.write, text="z", status=403).text
old.get("/")
kept = old.tokens
old.get("/logout")
old.tokens = kept
assert "#reload" in old.send(Notes.write, text="z", status=403).text

# == Signing in and out: snippet 1
one, two = tab(app), tab(app)
one.get("/cart")
one.send(Cart.add, sku="tea")
one.get("/login?user=1", 303)
assert "{&quot;tea&quot;: 1}" in one.get("/cart").replace('"', "&quot;")
two.get("/cart")
two.send(Cart.add, sku="tea")
two.get("/login?user=1", 303)
assert "{&quot;tea&quot;: 2}" in one.get("/cart").replace('"', "&quot;")

# == Caches: snippet 1
# visit /salaries 401
one = tab(app)
one.get("/login?user=1", 303)
said = one.client.get("/salaries").headers
assert said["cache-control"] == "private, no-store" and "cookie" in said["vary"].lower()
assert one.client.get("/").headers["cache-control"] == "private"

# == What lies on the disk
from pathlib import Path

for name in ("state.db", "backup.zip"):
    Path(name).write_text("secret")
tab(app).get("/state.db", 404)
assert tab(app).get("/backup.zip") == "secret"
