"""Cached answers: keys that cannot collide, values that cannot lie, bytes that are counted."""

import asyncio
import signal
import time
import tracemalloc

import numpy as np
import redis
from hypothesis import given
from hypothesis import strategies as st

from app.serving.cache import LocalCache, key_of, pack, unpack
from app.serving.shared_cache import PREFIX, SharedCache
from app.serving.work import Answer
from tests.fixtures.servers import RedisServer

PAYLOAD = np.arange(4, dtype="<f4").tobytes()


def test_keys_differ_in_every_part_and_have_no_seams() -> None:
    keys = {key_of(*parts) for parts in (("p", "d", "o", "t"), ("q", "d", "o", "t"), ("p", "e", "o", "t"), ("p", "d", "n", "t"))}
    keys |= {key_of("p", "d", "ot", ""), key_of("pd", "", "o", "t"), key_of("p", "d", "o", "T")}
    pairs = (("t", ""), ("", "t"), ("t", "t"), ("tt", "t"), ("t", "tt"), ("a b", "c"), ("a", "b c"))
    keys |= {key_of("p", "d", "o", pair) for pair in pairs}
    keys |= {key_of("p", "d", "o", text) for text in ("tt", "a b c", "ttt", "t" + bytes([1, 0, 0, 0, 0, 0, 0, 0]).decode() + "t")}
    assert len(keys) == 18


@given(st.binary(max_size=64), st.integers(0, 2**32 - 1), st.booleans())
def test_a_value_reads_back_as_it_was_written(payload: bytes, tokens: int, truncated: bool) -> None:
    answer = Answer(payload, tokens, truncated)
    for length in (len(payload), None):
        assert unpack(b"k" * 32, pack(b"k" * 32, answer), length) == answer


@given(st.binary(max_size=120))
def test_foreign_bytes_are_a_miss(value: bytes) -> None:
    assert unpack(b"k" * 32, value, len(PAYLOAD)) is None
    assert unpack(b"k" * 32, value, None) is None


def test_any_damage_is_a_miss() -> None:
    key = b"k" * 32
    value = pack(key, Answer(PAYLOAD, 7, False))
    for n in range(len(value)):
        assert unpack(key, value[:n] + bytes([value[n] ^ 1]) + value[n + 1 :], len(PAYLOAD)) is None
        assert unpack(key, value[:n], len(PAYLOAD)) is None
        assert unpack(key, value[:n], None) is None
    assert unpack(key, value + b"\0", len(PAYLOAD)) is None
    assert unpack(b"K" * 32, value, len(PAYLOAD)) is None  # a good value under somebody else's key
    assert unpack(key, value, len(PAYLOAD) // 2) is None


def test_the_local_cache_keeps_to_its_bytes_as_the_process_sees_them() -> None:
    limit = 2 * 2**20
    tracemalloc.start()
    cache = LocalCache(limit)
    before = tracemalloc.get_traced_memory()[0]
    for n in range(50_000):
        key = n.to_bytes(32, "little")
        cache.put(key, Answer(bytes(100), 9 + n % 1000, False))
        if n % 3 == 0:
            cache.get(key)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.5 * limit < cache.size <= limit
    assert used <= limit * 1.05
    assert len(cache) > 1000


def test_a_flood_of_single_texts_does_not_drive_out_the_hot_ones() -> None:
    cache = LocalCache(100 * 1024)
    hot = [bytes([n]) * 32 for n in range(20)]
    for key in hot:
        cache.put(key, Answer(PAYLOAD, 1, False))
        assert cache.get(key)
    for n in range(10_000):
        cache.put(n.to_bytes(33, "little"), Answer(PAYLOAD, 1, False))
    assert all(cache.get(key) for key in hot)


def test_replacing_and_oversized_entries_keep_the_account_right() -> None:
    cache = LocalCache(4096)
    key = b"k" * 32
    for size in (10, 500, 1, 0):
        cache.put(key, Answer(bytes(size), 1, False))
    assert len(cache) == 1
    cache.put(b"b" * 32, Answer(bytes(5000), 1, False))
    assert cache.get(b"b" * 32) is None
    cache.get(key)
    cache.get(key)
    assert cache.size == 420


async def _up(cache: SharedCache, wanted: bool = True) -> None:
    until = time.monotonic() + 15
    while cache.up is not wanted:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


async def _ask(cache: SharedCache, keys: list[bytes]) -> list[bytes | None]:
    found: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()
    cache.lookup(keys, found.set_result)
    return await asyncio.wait_for(found, 5)


def test_the_shared_cache_answers_many_lookups_at_once(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        cache = SharedCache(redis_server.url)
        assert await _ask(cache, [b"a"]) == [None]  # before it is known to be up
        cache.start()
        await _up(cache)
        for n in range(600):
            cache.store(b"%d" % n, b"value %d" % n)
        while await _ask(cache, [b"599"]) != [b"value 599"]:
            await asyncio.sleep(0.01)
        found = await asyncio.gather(*(_ask(cache, [b"%d" % n, b"x"]) for n in range(600)))
        assert found == [[b"value %d" % n, None] for n in range(600)]
        with redis.Redis.from_url(redis_server.url) as client:
            assert client.ttl(PREFIX + b"5") > 0
            client.lpush(PREFIX + b"list", "not a string")
        assert await _ask(cache, [b"list", b"1"]) == [None, b"value 1"]
        await cache.close()

    asyncio.run(scenario())


def test_a_dead_redis_costs_nobody_more_than_a_blink_and_comes_back(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        cache = SharedCache(redis_server.url)
        cache.start()
        await _up(cache)
        redis_server.stop()
        slow = []
        for n in range(50):
            started = time.perf_counter()
            assert await _ask(cache, [b"%d" % n]) == [None]
            cache.store(b"x", b"y")
            slow.append(time.perf_counter() - started)
        assert max(slow) < 1.0
        assert sorted(slow)[40] < 0.01
        assert not cache.up
        redis_server.start()
        await _up(cache)
        cache.store(b"x", b"y")
        while await _ask(cache, [b"x"]) != [b"y"]:
            await asyncio.sleep(0.01)
        await cache.close()

    asyncio.run(scenario())


def test_a_frozen_redis_opens_the_circuit(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        cache = SharedCache(redis_server.url)
        cache.start()
        await _up(cache)
        process = redis_server._process
        assert process
        process.send_signal(signal.SIGSTOP)
        try:
            started = time.perf_counter()
            assert await asyncio.gather(*(_ask(cache, [b"k"]) for _ in range(20))) == [[None]] * 20
            assert time.perf_counter() - started < 2.0
            started = time.perf_counter()
            assert await _ask(cache, [b"k"]) == [None]
            assert time.perf_counter() - started < 0.1
        finally:
            process.send_signal(signal.SIGCONT)
        await _up(cache)
        await cache.close()

    asyncio.run(scenario())
