"""Webhooks as the `pusher` package validates them: key, signature and raw body."""

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pusher
import pytest

from fanfare import APP, TELLING, Fanfare
from listener import DEADLINE, Listener


@pytest.fixture(scope="module")
def requests():
    """What came to the customer's own server: (headers, raw body)."""
    came = queue.Queue()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            came.put((self.headers, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    came.url = f"http://127.0.0.1:{http.server_port}/hook"
    yield came
    http.shutdown()
    http.server_close()


@pytest.fixture(scope="module")
def telling(requests):
    server = Fanfare(webhooks=requests.url)
    yield server
    server.stop()


def told(requests, count):
    """The next events, each from a request that the SDK takes for genuine."""
    sdk, other = pusher.Pusher(**TELLING), pusher.Pusher(**APP)
    events = []
    while len(events) < count:
        headers, body = requests.get(timeout=DEADLINE)
        key, signature = headers["X-Pusher-Key"], headers["X-Pusher-Signature"]
        webhook = sdk.validate_webhook(key, signature, body)
        assert webhook is not None, (str(headers), body)
        events += webhook["events"]

        # And so that this can fail:
        assert sdk.validate_webhook(key, signature, body + " ") is None
        assert other.validate_webhook(key, signature, body) is None
    return events


def test_the_sdk_accepts_every_kind_of_event(requests, telling):
    """Case 168."""
    account = {"key": TELLING["key"], "secret": TELLING["secret"], "user_data": {"user_id": "ada"}}
    listener = Listener(telling, ["presence-room"], **account).subscribed()
    try:
        socket_id = listener.socket_id
        listener.channels["presence-room"].trigger("client-said", {"text": "hällo 🎺"})
        listener.client.unsubscribe("presence-room")
        listener.settle()
        listener.client.subscribe("cache-news")
        listener.settle()
        listener.client.unsubscribe("cache-news")
        events = told(requests, 10)
    finally:
        listener.close()
    assert [event for event in events if event["channel"] == "presence-room"] == [
        {"name": "channel_occupied", "channel": "presence-room"},
        {"name": "member_added", "channel": "presence-room", "user_id": "ada"},
        {
            "name": "client_event",
            "channel": "presence-room",
            "event": "client-said",
            "data": json.dumps({"text": "hällo 🎺"}, separators=(",", ":")),
            "socket_id": socket_id,
            "user_id": "ada",
        },
        {"name": "member_removed", "channel": "presence-room", "user_id": "ada"},
        {"name": "channel_vacated", "channel": "presence-room"},
    ]
    assert [event for event in events if event["channel"] == "cache-news"] == [
        {"name": "channel_occupied", "channel": "cache-news"},
        {"name": "cache_miss", "channel": "cache-news"},
        {"name": "subscription_count", "channel": "cache-news", "subscription_count": 1},
        {"name": "subscription_count", "channel": "cache-news", "subscription_count": 0},
        {"name": "channel_vacated", "channel": "cache-news"},
    ]
