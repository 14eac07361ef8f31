"""The servers that FastState runs on: how each is started, and what it speaks."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"

Command = Callable[[str, int, "Certificate | None"], Sequence[str]]
"""What starts a server: of the target ("module:attribute", found on the path), the port, and a certificate or None."""


class Certificate:
    """A certificate for 127.0.0.1 in two files, and who trusts it. Lifetime: the directory's."""

    def __init__(self, directory: Path) -> None:
        import trustme  # here: it takes its time, and few need it

        authority = trustme.CA()
        issued = authority.issue_cert(HOST)
        self.file, self.key = directory / "cert.pem", directory / "key.pem"
        self.file.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(self.key)
        self._authority = authority

    def trusted(self) -> ssl.SSLContext:
        """Return a context for a client; one each, since some clients change theirs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context


def serve_with_uvicorn(target: str, port: int) -> None:
    """Serves until a signal comes, in a process that has nothing else to do."""
    import uvicorn

    uvicorn.run(target, host=HOST, port=port, log_level="info")


def uvicorn(*arguments: str) -> Command:
    def command(target: str, port: int, certificate: Certificate | None) -> Sequence[str]:
        tls = ["--ssl-certfile", str(certificate.file), "--ssl-keyfile", str(certificate.key)] if certificate else []
        return [sys.executable, "-m", "uvicorn", target, "--host", HOST, "--port", str(port), *tls, *arguments]

    return command


def hypercorn(*arguments: str) -> Command:
    def command(target: str, port: int, certificate: Certificate | None) -> Sequence[str]:
        tls = ["--certfile", str(certificate.file), "--keyfile", str(certificate.key)] if certificate else []
        return [sys.executable, "-m", "hypercorn", target, "--bind", f"{HOST}:{port}", *tls, *arguments]

    return command


def granian(*arguments: str) -> Command:
    def command(target: str, port: int, certificate: Certificate | None) -> Sequence[str]:
        tls = ["--ssl-certificate", str(certificate.file), "--ssl-keyfile", str(certificate.key)] if certificate else []
        base = [sys.executable, "-m", "granian", target, "--interface", "asgi", "--host", HOST, "--port", str(port)]
        return [*base, *tls, *arguments]

    return command


def gunicorn(*arguments: str) -> Command:
    def command(target: str, port: int, certificate: Certificate | None) -> Sequence[str]:
        tls = ["--certfile", str(certificate.file), "--keyfile", str(certificate.key)] if certificate else []
        return [sys.executable, "-m", "gunicorn", target, "--bind", f"{HOST}:{port}", *tls, *arguments]

    return command


@dataclass(frozen=True, slots=True)
class Kind:
    """One server with one set of settings."""

    command: Command
    tls: bool = False
    protocol: str = "HTTP/1.1"
    """What a client that can do all of them gets."""
    code: int = 0
    """What it exits with after SIGTERM."""
    flaws: Mapping[str, str] = field(default_factory=dict)
    """What is not as it should be on it, and why: an expected failure of the tests that say so."""


CHUNKS = {"HTTP/1.0": "uvicorn with httptools sends chunks whatever the version"}

KINDS = {
    # uvicorn hands the signal on when it is done with it
    "uvicorn": Kind(uvicorn("--http", "httptools"), code=-15, flaws=CHUNKS),
    "uvicorn with h11": Kind(uvicorn("--http", "h11"), code=-15),
    "uvicorn on asyncio's loop": Kind(uvicorn("--loop", "asyncio"), code=-15, flaws=CHUNKS),
    "uvicorn with TLS": Kind(uvicorn(), tls=True, code=-15, flaws=CHUNKS),
    "hypercorn": Kind(hypercorn()),
    "hypercorn in one process": Kind(hypercorn("--workers", "0")),
    "hypercorn with HTTP/2": Kind(hypercorn(), tls=True, protocol="HTTP/2"),
    "granian": Kind(granian()),
    "granian with HTTP/2": Kind(granian(), tls=True, protocol="HTTP/2"),
    "gunicorn": Kind(gunicorn("--worker-class", "uvicorn.workers.UvicornWorker"), flaws=CHUNKS),
}
