"""The real binary as a child process, ended by its own pid."""

import os
import queue
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

START_DEADLINE = 20
STOP_DEADLINE = 20

APP = {"app_id": "1", "key": "app-key", "secret": "app-secret"}
DISABLED = {"app_id": "2", "key": "disabled-key", "secret": "disabled-secret"}
TELLING = {"app_id": "3", "key": "telling-key", "secret": "telling-secret"}

SETTINGS = f"""
[server]
listen = ["127.0.0.1:0"]
# pysher's connections that the server closes are never closed by pysher, and given up after 5 s.
shutdown_grace = "10s"

[admin]
listen = "127.0.0.1:0"

[[apps]]
id = "{APP['app_id']}"
key = "{APP['key']}"
secret = "{APP['secret']}"
[apps.features]
client_events = true

[[apps]]
id = "{DISABLED['app_id']}"
key = "{DISABLED['key']}"
secret = "{DISABLED['secret']}"
enabled = false
"""


def webhook_settings(url):
    """A further app that has something of every kind to tell; departures are told after a second."""
    return f"""
[[apps]]
id = "{TELLING['app_id']}"
key = "{TELLING['key']}"
secret = "{TELLING['secret']}"
[apps.features]
client_events = true
subscription_count = true
[apps.limits]
webhook_delay = "1s"
[[apps.webhooks]]
url = "{url}"
"""


class Fanfare:
    """Started on a free loopback port; `host` and `port` are those of the public listener.

    `webhooks` is the URL that those of the app `TELLING` go to, which is there only then.
    """

    def __init__(self, webhooks=None):
        binary = os.environ.get("FANFARE_BINARY")
        assert binary, "FANFARE_BINARY must name the server to test"
        self.folder = tempfile.mkdtemp(prefix="fanfare-python-")
        config = Path(self.folder, "fanfare.toml")
        config.write_text(SETTINGS + webhook_settings(webhooks) if webhooks else SETTINGS)
        self.process = subprocess.Popen(
            [binary, "serve", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines = []
        found = queue.Queue()
        for stream in (self.process.stdout, self.process.stderr):
            threading.Thread(target=self._read, args=(stream, found), daemon=True).start()
        try:
            self.host, self.port = found.get(timeout=START_DEADLINE)
        except queue.Empty:
            self.process.kill()
            raise AssertionError("the server did not say where it listens:\n" + "\n".join(self.lines)) from None

    def _read(self, stream, found):
        for line in stream:
            self.lines.append(line.rstrip())
            # One line per listener; those of the private listener name it as such.
            address = re.search(r"\b(127(?:\.\d{1,3}){3}):([1-9]\d*)\b", line)
            if address and stream is self.process.stdout and not re.search("admin|private", line, re.IGNORECASE):
                found.put((address[1], int(address[2])))

    def stop(self):
        """SIGTERM; a drained stop ends with exit code 0."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        assert code == 0, f"exit code {code}:\n" + "\n".join(self.lines)
