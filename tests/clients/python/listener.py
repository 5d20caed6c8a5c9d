"""A pysher client that subscribes as its guide says: from the connection callback.

pysher runs its callbacks on a thread of its own, so what it hears is handed over in queues.
"""

import json
import queue

import pysher
from pysher.channel import Channel

DEADLINE = 30


class Listener:
    """Subscribes to `channels` and collects `events` there as (channel, event, data)."""

    def __init__(self, server, channels=(), events=(), key="app-key", secret="app-secret", **options):
        self.inbox = queue.Queue()
        self.errors = queue.Queue()
        self.pongs = queue.Queue()
        self.connects = queue.Queue()
        self.sign_ins = queue.Queue()
        self.channels = {}
        self.wanted = (list(channels), [*events, "pusher:subscription_error"])
        self.client = pysher.Pusher(
            key, secure=False, secret=secret, custom_host=server.host, port=server.port, **options
        )
        connection = self.client.connection
        connection.bind("pusher:connection_established", self._connected)
        connection.bind("pusher:error", self.errors.put)
        connection.bind("pusher:pong", self.pongs.put)
        connection.bind("pusher:signin_success", self.sign_ins.put)
        self.client.connect()

    def _connected(self, _data):
        channels, events = self.wanted
        for name in channels:
            self.watch(self.client.subscribe(name), events)
        self.connects.put(self.client.connection.socket_id)

    def watch(self, channel, events):
        self.channels[channel.name] = channel
        for event in ["pusher_internal:subscription_succeeded", *events]:
            channel.bind(event, lambda data, event=event: self.inbox.put((channel.name, event, data)))

    def expect(self, name, events):
        """Collects `events` of a channel that is still to be subscribed to.

        From any thread but its own, pysher's `subscribe` returns too late to miss nothing.
        """
        self.client.channels[name] = Channel(name, self.client.connection)
        self.watch(self.client.channels[name], [*events, "pusher:subscription_error"])

    def connected(self):
        """Waits for the connection and for the answer to the ping that pysher opens with."""
        self.connects.get(timeout=DEADLINE)
        self.pongs.get(timeout=DEADLINE)
        return self

    def subscribed(self):
        """Waits for the connection and for the success of every subscription."""
        self.connected()
        missing = set(self.wanted[0])
        while missing:
            channel, event, data = self.inbox.get(timeout=DEADLINE)
            assert event == "pusher_internal:subscription_succeeded", (channel, event, data)
            missing.remove(channel)
        return self

    def sign_in(self, answer):
        """Sends what a route for signing in answered, which pysher has no method for."""
        self.client.connection.send_event("pusher:signin", answer)

    def signed_in(self, answer):
        """The same, and returns the user_data that the server has taken in."""
        self.sign_in(answer)
        return json.loads(self.sign_ins.get(timeout=DEADLINE))["user_data"]

    def ended(self):
        """Waits until the server has closed the connection for good."""
        self.client.connection.join(DEADLINE)
        assert not self.client.connection.is_alive()
        assert self.client.connection.state == "disconnected"

    def next(self, event):
        """Data of the next event, which must be called `event`."""
        _, name, data = self.inbox.get(timeout=DEADLINE)
        assert name == event, (name, data)
        return data

    def next_json(self, event):
        return json.loads(self.next(event))

    def settle(self):
        """Returns once the server has worked through all that was sent so far."""
        self.client.connection.send_ping()
        self.pongs.get(timeout=DEADLINE)

    def heard_nothing(self):
        self.settle()
        assert self.inbox.empty(), list(self.inbox.queue)

    @property
    def socket_id(self):
        return self.client.connection.socket_id

    def close(self):
        # Not waiting for its thread: it may sit in a select() for as long as its ping timeout.
        self.client.disconnect(timeout=0)
