"""A server of files on this machine that cuts connections, forbids ranges and counts what it sent."""

import hashlib
import http.server
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from labkit.data.sources import DataSet, Remote

CONTENT = bytes(range(256)) * 4000  # about a megabyte


class Shelf(http.server.ThreadingHTTPServer):
    """Serves bytes by path; can cut connections, forbid ranges, and counts what it sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Callable[[Handler], None]] = {}  # what to answer instead, by path
        self.cuts: list[int] = []  # after so many bytes the next connections are cut
        self.ranges = True
        self.tags = True
        self.sent: list[int] = []  # bytes of each answer
        self.asked: list[str | None] = []  # Range header of each request

    def cleared(self):
        self.files = {"data.bin": CONTENT}
        self.cuts, self.sent, self.asked, self.answers = [], [], [], {}
        self.ranges = self.tags = True
        return self

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request, client_address):
        pass  # connections that the tests cut


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        shelf = self.server
        body = shelf.files.get(self.path[1:])
        wanted = self.headers.get("Range")
        shelf.asked.append(wanted)
        if self.path[1:] in shelf.answers:
            shelf.answers[self.path[1:]](self)
            return
        if body is None:
            self.send_error(404)
            return
        tag = '"' + hashlib.sha256(body).hexdigest()[:16] + '"'
        start = 0
        current = self.headers.get("If-Range") in (None, tag)
        if wanted and shelf.ranges and current:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if shelf.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        rest = body[start:]
        cut = shelf.cuts.pop(0) if shelf.cuts else None
        shelf.sent.append(len(rest[:cut]))  # before the client can be done and the next test begin
        self.wfile.write(rest[:cut])
        if cut is not None:
            self.close_connection = True


def sha(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def listing(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert text[0].isupper() or text.startswith(("http", "/", "data.bin"))
    return text


def a_set(shelf, **changes):
    shelf.files |= {"one.csv": b"a,b\n1,2\n", "two.csv": b"c\n3\n"}
    known = {
        "name": "a_set",
        "title": "A set",
        "source": "https://example.org/set",
        "licence": "CC0.",
        "published": {
            "one.csv": Remote(shelf.url("one.csv"), sha(shelf.files["one.csv"])),
            "two.csv": Remote(shelf.url("two.csv")),
        },
    }
    return DataSet(**{**known, **changes})


def packed(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(f"set/{name}", body)
    return buffer.getvalue()
