"""Checks of docs/csp.md; tests/docs/README.md says how they are written."""

# == Content-Security-Policy
from pathlib import Path

Path("datastar.js").write_text("")

# == Content-Security-Policy: snippet 1
import re

one = tab(app)
page = one.get("/")
assert one.client.get("/").headers["content-security-policy"] == POLICY
assert 'data-datastar="/_faststate/datastar"' in page
assert not re.search(r"<style|<script(?![^>]* src=)|\sstyle=|\son\w+=", page)
one.send(Counter.add)
assert ">1<" in one.get("/")

# == FastHTML's default headers: snippet 1
# new
import re

client = tab(app).client
answers = [client.get("/"), client.get("/")]
seen = [set(re.findall(r'nonce="([^"]+)"', answer.text)) for answer in answers]
assert len(seen[0]) == len(seen[1]) == 1 and seen[0] != seen[1]
for answer, nonces in zip(answers, seen):
    (nonce,) = nonces
    assert answer.headers["content-security-policy"].count(f"'nonce-{nonce}'") == 2
    tags = re.findall(r"<(?:script|style|link rel=.stylesheet)[^>]*>", answer.text)
    (ours,) = [tag for tag in tags if "nonce" not in tag]
    assert ours.startswith('<script type="module" src="/_faststate/client-')
