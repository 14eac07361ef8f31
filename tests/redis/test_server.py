"""The Redis servers that other tests stand on."""

import pytest
import redis

from tests.support.redis_server import DURABLE


def test_a_server_that_keeps_a_log_finds_its_data_after_a_kill(new_redis):
    server = new_redis(**DURABLE)
    server.do("SET", "key", "value")
    server.restart()
    assert server.do("GET", "key") == b"value"
    server.restart(lose=True)
    assert server.do("GET", "key") is None


def test_a_killed_server_answers_nobody(new_redis):
    server = new_redis()
    assert server.running and server.listening
    server.kill()
    assert not server.running and not server.listening
    with pytest.raises(redis.ConnectionError):
        server.do("PING")


def test_the_shared_server_is_empty_at_first(redis_server):
    assert redis_server.keys() == set()
    redis_server.do("SET", "key", "value")
