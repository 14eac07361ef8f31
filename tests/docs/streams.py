"""Checks of docs/streams.md; tests/docs/README.md says how they are written."""

# == Streams: snippet 1
one = tab(app)
assert one.client.post("/_faststate/stream", json={}, headers={"datastar-request": "true"}).status_code == 204
one.get("/")
one.send(Counter.add)
assert one.client.get("/_faststate/datastar").status_code == 404
assert "1 states, 0 streams" in one.get("/health")

# == Transports: snippet 1
import os

assert careful.options.transport == "portable" and StateProvider().options.transport == "auto"
os.environ["FASTSTATE_TRANSPORT"] = "portable"
assert StateProvider(transport="auto").options.transport == "portable"
del os.environ["FASTSTATE_TRANSPORT"]

# == Numbers: snippet 1
assert "0 behind by up to 0.0 s, 0 cut, 0 bytes" in tab(app).get("/streams")

# == By hand: snippet 1
one = tab(app)
one.get("/")
with one.client:
    with one.stream() as stream:
        assert stream.status_code == 200 and stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        assert any('"c":' in next(lines) for _ in range(3))
        assert one.send(Counter.add).status_code in (200, 204)
        assert any('{"Counter":{"count":1}}' in next(lines) for _ in range(20))
        assert any(next(lines).startswith(f"id: {provider.registry.epoch}.") for _ in range(5))
        assert provider.stats().connections == 1 and provider.stats().bytes_sent > 100
        provider.sse_manager.drain()
        list(lines)
    assert one.client.post("/_faststate/stream", json={}, headers={"datastar-request": "true"}).status_code == 503
