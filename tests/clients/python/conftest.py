"""One server for all tests; clients that are closed when their test ends."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pusher
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fanfare import APP, Fanfare  # noqa: E402
from listener import DEADLINE, Listener  # noqa: E402

MASTER_KEY = "ZmFuZmFyZWZhbmZhcmVmYW5mYXJlZmFuZmFyZWZhbmY="


@pytest.fixture(scope="session")
def server():
    server = Fanfare()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sdk(server):
    """Makes clients of the `pusher` package."""

    def make(**changes):
        options = {**APP, "host": server.host, "port": server.port, "ssl": False, "timeout": DEADLINE, **changes}
        return pusher.Pusher(encryption_master_key_base64=MASTER_KEY, **options)

    return make


@pytest.fixture(scope="session")
def api(sdk):
    return sdk()


@pytest.fixture
def listen(server):
    made = []

    def make(channels=(), events=(), **options):
        listener = Listener(server, channels, events, **options)
        made.append(listener)
        return listener

    yield make
    for listener in made:
        listener.close()


@pytest.fixture(scope="session")
def auth_endpoint(api):
    """The customer's own application: signs with the SDK whatever channel it is asked for."""

    class Route(BaseHTTPRequestHandler):
        def do_POST(self):
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            channel, socket = form["channel_name"][0], form["socket_id"][0]
            custom = {"user_id": "remote"} if channel.startswith("presence-") else None
            body = json.dumps(api.authenticate(channel, socket, custom)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Route)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/pusher/auth"
    http.shutdown()
    http.server_close()
