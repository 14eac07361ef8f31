"""The claims of docs/deployment.md: several real processes, its settings of Redis, its units and its proxies."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import types
import uuid
from functools import partial
from pathlib import Path

import httpx
import pytest

from benchmarks.million import LOADS, read, table
from faststate import ReactiveState, StateConfig, StateProvider, StateScope
from faststate.stores.redis import RedisStore
from faststate.tools.cli import main
from tests.support import pages
from tests.support.client import LivePage, Page, status, stream_request
from tests.support.pages import ROOT, Tab, snippets_elsewhere
from tests.support.processes import Process, Server, free_port
from tests.support.redis_server import RedisServer
from tests.support.servers import Certificate, uvicorn
from tests.support.waiting import wait_until

PAGE = ROOT / "docs/deployment.md"
PATIENCE = 20


def blocks(language):
    return [block.text for block in pages.blocks(PAGE) if block.language == language]


def app_of_the_page():
    (block,) = snippets_elsewhere(ROOT / "docs/deployment.md")
    return block.text


def redis_settings():
    """The options of the page's Redis, as `RedisServer` takes them."""
    (block,) = (block for block in blocks("text") if block.startswith("appendonly"))
    return {name.replace("-", "_"): value for name, value in map(str.split, block.splitlines())}


@pytest.fixture
def redis(tmp_path):
    """A Redis that is set up as the page says."""
    server = RedisServer(tmp_path / "redis", **redis_settings()).start()
    yield server
    server.stop()


@pytest.fixture
def shop(tmp_path, redis, monkeypatch):
    """The page's app as `shop.py`, and what it needs in its environment."""
    (tmp_path / "shop.py").write_text(app_of_the_page())
    env = {"SHOP_SECRET": "for tests", "FASTSTATE_STORE": f"{redis.url}?prefix=shop"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "shop.py", env


def test_the_app_runs_on_a_redis_that_is_set_up_as_the_page_says(shop, monkeypatch):
    module = types.ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", module)
    exec(compile(app_of_the_page(), str(PAGE), "exec", dont_inherit=True), module.__dict__)
    one = Tab(module.app)
    with one.client:
        assert ">0<" in one.get("/") and one.get("/health")
        one.send(module.Poll.vote)
        assert ">1<" in one.get("/")


def test_the_doctor_says_of_it_what_the_page_shows(shop, redis, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    assert main(["doctor", "shop:app"]) == 0
    assert capsys.readouterr().out.endswith("No problems.\n")
    redis.do("CONFIG", "SET", "appendonly", "no")
    redis.do("CONFIG", "SET", "save", "")
    assert main(["doctor", "shop:app"]) == 1
    said = capsys.readouterr().out
    monkeypatch.delitem(sys.modules, "shop", raising=False)

    def plain(text):
        return re.sub(r"Redis [\d.]+ at [\w.]+:\d+|\d+\.\d+ ms", "…", text)

    (shown,) = (block for block in blocks("text") if block.startswith("shop:app"))
    assert plain(said).startswith(plain(shown))


def test_a_backup_is_restored_as_the_page_says(redis, tmp_path):
    class Kept(ReactiveState):
        count: int = 0

    async def count():
        provider = StateProvider(store=redis.url)
        provider.register_state(Kept, StateConfig(scope=StateScope.GLOBAL))
        async with provider.modify(Kept) as kept:
            kept.count += 1
        await provider.stop()
        return kept.count

    def counts():
        return asyncio.run(count())

    assert [counts(), counts()] == [1, 2]
    text = PAGE.read_text()
    backup = re.search(r"`redis-cli (--rdb) backup\.rdb`", text)[1]
    assert "`dump.rdb`, start `redis-server --appendonly no`, and run `redis-cli CONFIG SET appendonly yes`" in text
    if shutil.which("redis-cli") is None:
        pytest.skip("THE BACKUP WAS NOT TRIED: there is no redis-cli")
    command = ["redis-cli", "-p", str(redis.port), backup, str(tmp_path / "backup.rdb")]
    subprocess.run(command, check=True, capture_output=True, timeout=20)
    assert counts() == 3
    redis.stop()
    (tmp_path / "backup.rdb").replace(redis.directory / "dump.rdb")
    redis.options["appendonly"] = "no"
    redis.start()
    redis.do("CONFIG", "SET", "appendonly", "yes")
    assert counts() == 3, "what came after the backup was kept"
    wait_until(lambda: not redis.do("INFO", "persistence")["aof_rewrite_in_progress"])
    redis.stop()
    redis.options["appendonly"] = "yes"
    redis.start()
    assert counts() == 4


@pytest.mark.parametrize("url", re.findall(r"`(redis[\w+]*://[^`.]*)`", PAGE.read_text()))
def test_every_url_of_the_page_names_a_redis(url):
    assert isinstance(StateProvider(store=url).store, RedisStore)


def test_the_page_names_all_that_the_doctor_looks_at():
    rows = re.findall(r"^\| (`.*?) \| [^|]+ \|$", PAGE.read_text().partition("| About |")[2].partition("\n\n")[0], re.M)
    source = (ROOT / "src/faststate/tools/doctor.py").read_text()
    named = set(re.findall(r"`([a-z ]+)`", " ".join(rows)))
    assert named == set(re.findall(r'"(?:ok|note|problem)"[^"]*?,\s*"([a-z ]+)",', source)) - {"note"}


def test_the_table_of_the_plan_is_what_the_script_prints():
    made = table(LOADS, read()[0]).splitlines()
    assert made[0] in PAGE.read_text()
    shown = PAGE.read_text().partition(made[0])[2].partition("\n\n")[0].splitlines()[2:]
    assert len(shown) == len(LOADS)
    for line, expected in zip(shown, made[2:], strict=True):
        cells, computed = line.split(" | "), expected.split(" | ")
        assert cells[0] == computed[0]
        for one, other in zip(cells[1:], computed[1:], strict=True):
            assert number(one) == pytest.approx(number(other), rel=0.5, abs=0.1), line  # measured anew, now and then


def number(cell):
    return float(re.sub(r"[^\d.]", "", cell))


# -- the ways to start several processes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["--workers", "3"], "procs=3, reload=False"], ids=["uvicorn", "FastHTML's serve"]
)
def test_every_process_has_what_any_of_them_committed(shop, arguments):
    path, env = shop
    process = Process(path.parent, app_of_the_page(), arguments, port=free_ports(3), env=env)
    ports = [process.port + number for number in (range(3) if isinstance(arguments, str) else (0, 0, 0))]

    def votes(page):
        return page.signals["Poll"]["votes"]

    try:
        process.until(lambda: process.output().count("Application startup complete") == 3, PATIENCE)
        process.until(lambda: all(map(is_listened_on, ports)), PATIENCE)
        for count in range(12):
            # Over a new connection each time, which the kernel gives to any of the workers.
            here, there = (f"http://127.0.0.1:{ports[at % 3]}" for at in (count, count + 1))
            with httpx.Client(base_url=here, timeout=PATIENCE) as client:
                page = Page(client)
                assert votes(page) == count
            with httpx.Client(base_url=there, timeout=PATIENCE) as other:
                other.cookies = client.cookies
                page.client = other
                assert page.send("Poll", "vote").status_code == 200
        assert "Traceback" not in process.output()
    finally:
        process.kill()


def is_listened_on(port):
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


def free_ports(number):
    """The first of so many free ports in a row."""
    ports = [free_port() for _ in range(number)]
    while ports[-1] - ports[0] != number - 1:
        ports = [*ports[1:], free_port()]
    return ports[0]


# -- units -------------------------------------------------------------------------------------------------------------


def test_the_unit_stops_the_process_as_it_wants_to_be_stopped(tmp_path):
    (block,) = blocks("ini")
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(block)
    service = unit["Service"]
    assert service["KillSignal"] == "SIGTERM" and int(service["TimeoutStopSec"]) > 5 + 5
    if shutil.which("systemd-analyze") is None:
        pytest.skip("THE UNIT WAS NOT CHECKED BY SYSTEMD: there is no systemd-analyze")
    file = tmp_path / "shop@.service"
    file.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable}", block).replace("User=shop\n", ""))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(file).replace("@", "@5001")],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, [line for line in done.stderr.splitlines() if "shop@" in line]) == (0, []), done.stderr


def test_the_units_command_serves_and_ends_within_its_time(shop):
    path, env = shop
    command = re.search(r"ExecStart=\S+/uvicorn (.*)", blocks("ini")[0])[1].split()

    def started(target, port, certificate):
        return [sys.executable, "-m", "uvicorn", *(part.replace("%i", str(port)) for part in command)]

    server = Server(path, cwd=path.parent, log=path.parent / "log", env=env, command=started)
    try:
        server.start()
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            page = Page(client)
            with client.stream(**as_arguments(stream_request(page))) as stream:
                lines = stream.iter_lines()
                next(lines)
                begun = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(httpx.TransportError):
                    list(lines)
        server.process.wait(10)
        assert time.monotonic() - begun < 5
    finally:
        server.kill()


def as_arguments(request):
    return {"method": request.method, "url": request.url, "headers": request.headers, "content": request.content}


# -- nginx -------------------------------------------------------------------------------------------------------------


class Nginx:
    """An nginx with the page's configuration, before servers of ours. Lifetime: from its making to `stop`."""

    def __init__(self, directory: Path, ports: list[int], certificate: Certificate) -> None:
        path = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if path is None:
            pytest.skip("NGINX'S CONFIGURATION WAS NOT TRIED: nginx is not installed")
        self.port = free_port()
        version = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=10).stderr
        is_old = tuple(map(int, re.findall(r"\d+", version.partition("/")[2])[:3])) < (1, 25, 1)
        around, inside = blocks("nginx")
        inside = re.sub(r"/etc/\S+fullchain.pem", str(certificate.file), inside)
        inside = re.sub(r"/etc/\S+privkey.pem", str(certificate.key), inside)
        inside = re.sub(r"127\.0\.0\.1:500(\d)", lambda found: f"127.0.0.1:{ports[int(found[1]) - 1]}", inside)
        listen = f"listen 127.0.0.1:{self.port} ssl"
        inside = inside.replace("listen 443 ssl", listen)
        if is_old:
            inside = re.sub(r"(listen .* ssl);\n +http2 on;.*", r"\1 http2;", inside)
        temporary = "".join(
            f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        around = around.replace("worker_processes auto;", "worker_processes 2;").replace("65536", "4096")
        around = around.replace("32768", "1024")
        if os.geteuid() == 0:  # else its workers are nobody, who may write no long body into our directory
            around = f"user root;\n{around}"
        config = directory / "nginx.conf"
        config.write_text(
            f"daemon off;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;\n{around}\n"
            f"http {{\naccess_log off;\n{temporary}{inside}}}\n"
        )
        base = [path, "-p", str(directory), "-c", str(config), "-e", str(directory / "nginx.log")]
        checked = subprocess.run([*base, "-t"], capture_output=True, text=True, timeout=10)
        assert checked.returncode == 0, checked.stderr
        self.log = directory / "nginx.log"
        self.process = subprocess.Popen(base)
        self.url = f"https://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def nginx(tmp_path, shop):
    """Two processes of the page's app behind nginx, and what they are."""
    path, env = shop
    certificate = Certificate(tmp_path)
    servers = [
        Server(
            path, cwd=tmp_path, log=tmp_path / f"log-{number}", env=env, command=uvicorn("--timeout-keep-alive", "75")
        )
        for number in range(2)
    ]
    with contextlib.ExitStack() as opened:

        def begin():
            made = Nginx(tmp_path, [server.port for server in servers], certificate)
            opened.callback(made.stop)
            made.certificate, made.servers = certificate, servers
            for server in servers:
                opened.callback(server.kill)
                server.start()
            wait_until(lambda: answers(made))
            return made

        yield begin


def browser(nginx, **options):
    transport = httpx.HTTPTransport(verify=nginx.certificate.trusted(), **options)
    return httpx.Client(base_url=nginx.url, timeout=PATIENCE, transport=transport)


def answers(nginx):
    with contextlib.suppress(httpx.TransportError), browser(nginx) as client:
        return client.get("/health").status_code == 200


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
def test_a_stream_through_nginx_has_what_an_event_changed_at_once_wherever_it_went(nginx, protocol):
    nginx = nginx()
    with browser(nginx, http2=protocol == "HTTP/2") as client:
        page = LivePage(client)
        assert page.response.http_version == protocol
        for count in range(1, 7):  # each event goes to any process
            begun = time.monotonic()
            assert page.send("Poll", "vote", connection=page.shown["_fs"]["c"]).status_code in (200, 204)
            page.read_until("Poll", votes=count)
            assert time.monotonic() - begun < 5, "it was held back"
        page.close()
    assert "content-encoding" not in page.stream.headers and "x-accel-buffering" not in page.stream.headers


def test_a_process_that_restarts_is_not_noticed_behind_nginx(nginx):
    nginx = nginx()
    with browser(nginx) as client:
        for server in nginx.servers:
            assert server.stop() is not None
            for _ in range(4):
                assert client.get("/health").status_code == 200
                page = Page(client)
                before = page.signals["Poll"]["votes"]
                assert page.send("Poll", "vote").status_code == 200
                assert Page(client).signals["Poll"]["votes"] == before + 1
            server.start()
            wait_until(partial(is_back, server, client, asked(server)))


def is_back(server, client, before):
    """True if nginx has asked it again, which it does once its fail_timeout is over."""
    assert client.get("/health").status_code == 200
    return asked(server) > before


def asked(server):
    return server.output().count('"GET /health')


def test_the_clients_address_comes_through_nginx(nginx, shop):
    path, _ = shop
    path.write_text(
        app_of_the_page()
        + textwrap.dedent(
            """
            @rt
            def address(request):
                return f"{request.client.host} {request.url.scheme}"
            """
        )
    )
    with browser(nginx(), local_address="127.0.0.5") as client:
        assert "127.0.0.5 https" in client.get("/address").text
        forged = client.get("/address", headers={"X-Forwarded-For": "10.9.8.7"}).text
        assert "127.0.0.5 https" in forged


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
def test_a_page_of_a_thousand_records_is_live_behind_nginxs_own_buffers(nginx, shop, protocol):
    path, _ = shop
    path.write_text(
        app_of_the_page()
        + textwrap.dedent(
            """
            import uuid

            class Row(ReactiveState):
                n: int = 0
                @event
                def add(self):
                    self.n += 1

            provider.register_state(Row, StateConfig(scope=StateScope.RECORD, public=True))

            @rt("/many/{number}")
            async def many(request, number: int):
                ids = [uuid.uuid5(uuid.NAMESPACE_DNS, str(i)) for i in range(number)]
                return P(*[(await provider.get_state(Row, request, record_id=i)).signal.n for i in ids])
            """
        )
    )
    last = str(uuid.uuid5(uuid.NAMESPACE_DNS, "999"))
    with browser(nginx(), http2=protocol == "HTTP/2") as client:
        page = Page(client, "/many/1000")
        assert sum(map(len, page.tokens)) > 24_000  # three times what nginx takes of a URL
        stream = client.send(stream_request(page), stream=True)
        with contextlib.closing(stream):
            assert (stream.status_code, stream.http_version) == (200, protocol)
            lines, seen = stream.iter_lines(), ""
            while "_fs" not in seen:
                seen += next(lines)
            assert status(page.send("Row", "add", instance_id=last)) == 200
            while '"n":1' not in seen:
                seen += next(lines)


# -- Caddy -------------------------------------------------------------------------------------------------------------


def test_a_stream_through_caddy_has_what_an_event_changed_at_once(tmp_path, shop):
    path = shutil.which("caddy")
    if path is None:
        pytest.skip("CADDY'S CONFIGURATION WAS NOT TRIED: caddy is not installed")
    (block,) = (block for block in blocks("text") if block.startswith("shop.example"))
    app, env = shop
    servers = [Server(app, cwd=tmp_path, log=tmp_path / f"log-{n}", env=env, command=uvicorn()) for n in range(2)]
    port = free_port()
    config = block.replace("shop.example", f"http://127.0.0.1:{port}")
    for number, server in enumerate(servers, 1):
        config = config.replace(f"127.0.0.1:500{number}", f"127.0.0.1:{server.port}")
    (tmp_path / "Caddyfile").write_text(f"{{\n    admin off\n}}\n{config}")
    homes = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    with contextlib.ExitStack() as opened, (tmp_path / "caddy.log").open("ab") as log:
        for server in servers:
            opened.callback(server.kill)
            server.start()
        command = [path, "run", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"]
        process = subprocess.Popen(command, env=homes, stdout=log, stderr=log)
        opened.callback(process.wait, 10)
        opened.callback(process.terminate)
        client = opened.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE))

        def answers():
            with contextlib.suppress(httpx.TransportError):
                return client.get("/health").status_code == 200

        wait_until(answers)
        vote_six_times(client, Page(client))
