// Server, backend and clients of one test file. Clients are unmodified and configured as a user
// of a self-hosted server configures them.

import assert from "node:assert/strict";

import PusherServer from "pusher";
import Pusher from "pusher-js";

import { Backend } from "./backend.js";
import { APP, Fanfare } from "./fanfare.js";
import { Inbox, within, DEADLINE } from "./wait.js";

export const MASTER_KEY = Buffer.alloc(32, "fanfare").toString("base64");

export class World {
  static async start(app = APP, options) {
    return World.of(app, await Fanfare.start(options));
  }

  static async of(app, server) {
    const world = new World();
    Object.assign(world, { app, server });
    world.api = world.sdk();
    world.backend = await Backend.start(world.api);
    return world;
  }

  /** Another app on the same server, with a backend of its own that stops when the test `t` ends. */
  async beside(t, app) {
    const world = await World.of(app, this.server);
    t.after(() => world.backend.stop());
    return world;
  }

  async stop() {
    await this.backend.stop();
    await this.server.stop();
  }

  /** The `pusher` server SDK for one app. */
  sdk({ id, key, secret } = this.app, options = {}) {
    return new PusherServer({
      appId: id,
      key,
      secret,
      host: this.server.host,
      port: this.server.port,
      useTLS: false,
      encryptionMasterKeyBase64: MASTER_KEY,
      ...options,
    });
  }

  options({ auth = "/broadcasting/auth", userAuth = "/user-auth", as = "ada", ...options } = {}) {
    return {
      cluster: "",
      ...at(this.server),
      forceTLS: false,
      enabledTransports: ["ws"],
      channelAuthorization: {
        endpoint: this.backend.url + auth,
        transport: "ajax",
        headers: { "X-Person": as },
      },
      userAuthentication: {
        endpoint: this.backend.url + userAuth,
        transport: "ajax",
        headers: { "X-Person": as },
      },
      ...options,
    };
  }

  /** A pusher-js client that is closed when the test `t` ends. */
  client(t, { key = this.app.key, ...options } = {}) {
    const client = new Pusher(key, this.options(options));
    t.after(() => client.disconnect());
    return client;
  }

  /** The same, already connected. */
  async connected(t, options) {
    const client = this.client(t, options);
    await connected(client);
    return client;
  }

  /** JSON of a `GET` through the SDK. */
  async get(path, params, api = this.api) {
    const response = await api.get({ path, params });
    return response.json();
  }
}

/** What points a client at a server, or at something in front of it, for all transports. */
export function at({ host, port }) {
  return { wsHost: host, wsPort: port, wssPort: port, httpHost: host, httpPort: port, httpsPort: port };
}

export async function connected(client, ms = DEADLINE) {
  if (client.connection.state === "connected") return;
  await within(ms, "the connection", new Promise((resolve) => {
    client.connection.bind("connected", resolve);
  }));
}

/** Disconnects, and connects again on the same client object. */
export async function comesBack(client) {
  const first = client.connection.socket_id;
  client.disconnect();
  assert.equal(client.connection.state, "disconnected");
  client.connect();
  await connected(client);
  assert.notEqual(client.connection.socket_id, first);
}

/** Subscribes and waits for the server's word; returns the channel. */
export async function subscribed(client, name) {
  const inbox = new Inbox();
  const channel = client.subscribe(name);
  inbox.bind(channel, "pusher:subscription_succeeded", "pusher:subscription_error");
  const { data } = await inbox.next("pusher:subscription_succeeded");
  channel.greeting = data;
  return channel;
}

/** Signs in, unless `client` is about to by itself, and waits for the server's word. */
export async function signedIn(client, ms = DEADLINE) {
  client.signin();
  await within(ms, "the sign-in", client.user.signinDonePromise);
  // That promise is also kept when it went wrong.
  assert.notEqual(client.user.user_data, null, "the sign-in has failed");
  return client;
}

/** Waits until the server has ended the connection as it does when it terminates a user's. */
export async function terminated(client, errors) {
  assert.equal((await errors.next("error")).data.data.code, 4009);
  if (client.connection.state === "disconnected") return;
  await within(DEADLINE, "the end of the connection", new Promise((resolve) => {
    client.connection.bind("disconnected", resolve);
  }));
}

/** Returns once the server has worked through all that `client` has sent so far. */
export async function settled(client) {
  const inbox = new Inbox();
  const pong = (message) => message.event === "pusher:pong" && inbox.put({ name: message.event });
  client.connection.bind("message", pong);
  client.connection.send_event("pusher:ping", {});
  await inbox.next("pusher:pong");
  client.connection.unbind("message", pong);
}

/** The error an SDK call ends with. */
export async function refusal(promise) {
  const error = await promise.then(
    () => assert.fail("the call was expected to be refused"),
    (error) => error,
  );
  assert.equal(error.name, "PusherRequestError", String(error.stack));
  return error;
}
