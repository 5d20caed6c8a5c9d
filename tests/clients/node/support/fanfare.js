// The real binary as a child process: started on a free loopback port, known to be ready by the
// line it prints, ended by its own pid.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { within } from "./wait.js";

const START_DEADLINE = 20_000;
const STOP_DEADLINE = 20_000;
const KEPT_LINES = 50;

/** The app most tests talk to; client events are on. */
export const APP = { id: "1", key: "app-key", secret: "app-secret" };
/** Client events are off here. */
export const QUIET = { id: "2", key: "quiet-key", secret: "quiet-secret" };
/** Switched off by its operator. */
export const DISABLED = { id: "3", key: "disabled-key", secret: "disabled-secret" };
/** Room for one connection. */
export const SMALL = { id: "4", key: "small-key", secret: "small-secret" };
/** Its users are told when those they watch come and, after a few seconds, when they go. */
export const WATCHED = { id: "5", key: "watched-key", secret: "watched-secret" };
/** Its clients are told how many subscribers a channel has. */
export const COUNTED = { id: "6", key: "counted-key", secret: "counted-secret" };
/** Clients have to authorise something within a few seconds. */
export const AUTHORIZED = { id: "7", key: "authorized-key", secret: "authorized-secret" };
/** The same, in their own time; and room for one connection that has. */
export const GATED = { id: "9", key: "gated-key", secret: "gated-secret" };
/** Clients have to come by TLS. */
export const TLS_ONLY = { id: "8", key: "tls-key", secret: "tls-secret" };

function settings(listen, webhooks) {
  return `
[server]
listen = ["${listen}"]
shutdown_grace = "5s"

[admin]
listen = "127.0.0.1:0"

[[apps]]
id = "${APP.id}"
key = "${APP.key}"
secret = "${APP.secret}"
[apps.features]
client_events = true
${webhooks ? webhookSettings(webhooks) : ""}
[[apps]]
id = "${QUIET.id}"
key = "${QUIET.key}"
secret = "${QUIET.secret}"

[[apps]]
id = "${DISABLED.id}"
key = "${DISABLED.key}"
secret = "${DISABLED.secret}"
enabled = false

[[apps]]
id = "${SMALL.id}"
key = "${SMALL.key}"
secret = "${SMALL.secret}"
[apps.limits]
max_connections = 1

[[apps]]
id = "${WATCHED.id}"
key = "${WATCHED.key}"
secret = "${WATCHED.secret}"
[apps.features]
watchlist_events = true
[apps.limits]
offline_delay = "5s"

[[apps]]
id = "${COUNTED.id}"
key = "${COUNTED.key}"
secret = "${COUNTED.secret}"
[apps.features]
subscription_count = true

[[apps]]
id = "${AUTHORIZED.id}"
key = "${AUTHORIZED.key}"
secret = "${AUTHORIZED.secret}"
[apps.features]
authorized_connections = true
[apps.limits]
authorization_timeout = "4s"

[[apps]]
id = "${GATED.id}"
key = "${GATED.key}"
secret = "${GATED.secret}"
[apps.features]
authorized_connections = true
[apps.limits]
max_connections = 1

[[apps]]
id = "${TLS_ONLY.id}"
key = "${TLS_ONLY.key}"
secret = "${TLS_ONLY.secret}"
[apps.features]
force_tls = true
`;
}

// There is something of every kind to tell, and departures are told after a few seconds.
function webhookSettings(url) {
  return `subscription_count = true
[apps.limits]
webhook_delay = "5s"
[[apps.webhooks]]
url = "${url}"
`;
}

export class Fanfare {
  /**
   * Starts the server and resolves once its public listener has said where it is.
   * `webhooks`: the URL that those of the first app go to; `env`: further variables.
   */
  static async start({ listen = "127.0.0.1:0", webhooks, env } = {}) {
    const binary = process.env.FANFARE_BINARY;
    assert.ok(binary, "FANFARE_BINARY must name the server to test");
    const server = new Fanfare();
    server.folder = mkdtempSync(join(tmpdir(), "fanfare-node-"));
    const file = join(server.folder, "fanfare.toml");
    writeFileSync(file, settings(listen, webhooks));
    server.child = spawn(binary, ["serve", "--config", file], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...env },
    });
    server.lines = [];
    server.exited = new Promise((resolve) => {
      server.child.once("error", (error) => resolve({ error }));
      server.child.once("exit", (code, signal) => resolve({ code, signal }));
    });
    server.killOnExit = () => server.child.kill("SIGKILL");
    process.once("exit", server.killOnExit);

    const listening = new Promise((resolve) => {
      createInterface({ input: server.child.stdout }).on("line", (line) => {
        server.keep(line);
        const address = publicAddress(line);
        if (address) resolve(address);
      });
    });
    createInterface({ input: server.child.stderr }).on("line", (line) => server.keep(line));

    const started = await within(START_DEADLINE, "the server to listen", Promise.race([
      listening,
      server.exited.then((end) => {
        throw new Error(`the server ended early: ${JSON.stringify(end)}\n${server.lines.join("\n")}`);
      }),
    ]));
    Object.assign(server, started);
    return server;
  }

  get address() {
    return `${this.host}:${this.port}`;
  }

  /** SIGTERM to this very process; a drained stop ends with exit code 0. */
  async stop() {
    this.child.kill("SIGTERM");
    const end = await within(STOP_DEADLINE, "the server to drain and exit", this.exited);
    process.removeListener("exit", this.killOnExit);
    rmSync(this.folder, { recursive: true, force: true });
    assert.deepEqual(end, { code: 0, signal: null }, this.lines.join("\n"));
  }

  /** SIGKILL: no word to anybody. */
  async kill() {
    this.child.kill("SIGKILL");
    await within(STOP_DEADLINE, "the server to be gone", this.exited);
    process.removeListener("exit", this.killOnExit);
    rmSync(this.folder, { recursive: true, force: true });
  }

  keep(line) {
    this.lines.push(line);
    if (this.lines.length > KEPT_LINES) this.lines.shift();
  }
}

// One line per listener; those of the private listener name it as such.
function publicAddress(line) {
  if (/admin|private/i.test(line)) return null;
  const found = line.match(/\b(127(?:\.\d{1,3}){3}):([1-9]\d*)\b/);
  return found && { host: found[1], port: Number(found[2]) };
}
