// Connecting, being refused, staying alive and coming back: pusher-js 8.6.0 in its node build.

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { after, before, test } from "node:test";

import Pusher from "pusher-js";

import { Entrance } from "./support/entrance.js";
import { APP, DISABLED, Fanfare, SMALL, TLS_ONLY } from "./support/fanfare.js";
import { DEADLINE, Inbox, within } from "./support/wait.js";
import { World, comesBack, connected, settled, subscribed } from "./support/world.js";

let world;
before(async () => {
  world = await World.start();
});
after(() => world.stop());

test("goes through connecting to connected and learns its socket id", async (t) => {
  const client = world.client(t);
  const states = new Inbox().bind(client.connection, "state_change");
  assert.equal(client.connection.state, "connecting");
  assert.deepEqual((await states.next()).data, { previous: "connecting", current: "connected" });
  assert.match(client.connection.socket_id, /^[1-9]\d*\.[1-9]\d*$/);
});

test("connects with nothing set but host, port and no TLS", async (t) => {
  const client = new Pusher(APP.key, {
    cluster: "",
    wsHost: world.server.host,
    wsPort: world.server.port,
    forceTLS: false,
  });
  t.after(() => client.disconnect());
  // After 2 s this client also tries TLS here, where nobody is; after 5 s it would look elsewhere.
  await connected(client, 4_900).catch((error) => {
    client.disconnect();
    throw error;
  });
  const inbox = new Inbox().bind(await subscribed(client, "stock"), "hello");
  await world.api.trigger("stock", "hello", { to: "everyone" });
  assert.deepEqual((await inbox.next("hello")).data, { to: "everyone" });
});

test("two connections have different socket ids", async (t) => {
  const [one, two] = await Promise.all([world.connected(t), world.connected(t)]);
  assert.notEqual(one.connection.socket_id, two.connection.socket_id);
});

test("disconnect and connect again on the same client object", async (t) => {
  await comesBack(await world.connected(t));
});

test("keeps a silent connection alive by its own pings", async (t) => {
  const client = world.client(t, { activityTimeout: 150, pongTimeout: 30_000 });
  const pongs = new Inbox();
  client.connection.bind("message", ({ event }) => event === "pusher:pong" && pongs.put({ name: event }));
  await connected(client);
  const id = client.connection.socket_id;
  for (let round = 0; round < 5; round++) await pongs.next("pusher:pong");
  assert.equal(client.connection.state, "connected");
  assert.equal(client.connection.socket_id, id);
});

for (const { what, key, code } of [
  { what: "an unknown key", key: "no-such-key", code: 4001 },
  { what: "an unknown key of 500 characters", key: "k".repeat(500), code: 4001 },
  { what: "a disabled app", key: DISABLED.key, code: 4003 },
]) {
  test(`${what} is refused for good with ${code}`, async (t) => {
    const client = world.client(t, { key });
    const errors = new Inbox().bind(client.connection, "error");
    const states = new Inbox().bind(client.connection, "state_change");
    const retries = new Inbox().bind(client.connection, "connecting_in");
    const { data: error } = await errors.next("error");
    assert.equal(error.type, "WebSocketError");
    assert.equal(error.error.data.code, code);
    assert.ok(error.error.data.message.length > 0, "the close reason explains itself");
    assert.ok(Buffer.byteLength(error.error.data.message) <= 123);
    assert.equal((await states.next()).data.current, "disconnected");
    assert.equal(client.connection.state, "disconnected");
    assert.deepEqual(errors.items, []);
    assert.deepEqual(retries.items, []);
  });
}

test("over the connection limit is refused with 4004 until somebody leaves", async (t) => {
  const first = await world.connected(t, { key: SMALL.key });
  const second = world.client(t, { key: SMALL.key });
  const errors = new Inbox().bind(second.connection, "error");
  assert.equal((await errors.next("error")).data.error.data.code, 4004);
  assert.equal(second.connection.state, "disconnected");

  first.disconnect();
  // The server learns of the goodbye a moment after us, so knock until it has.
  await within(DEADLINE, "a free place", (async () => {
    for (;;) {
      const next = new Inbox().bind(second.connection, "connected", "disconnected");
      second.connect();
      if ((await next.next()).name === "connected") return;
    }
  })());
});

test("a client of an app that wants TLS is told so and comes back by TLS (4000)", async (t) => {
  const tls = new Inbox();
  const listener = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", (hello) => {
      tls.put({ name: "hello", data: hello });
      socket.destroy();
    });
  });
  await new Promise((resolve) => listener.listen(0, "127.0.0.1", resolve));
  t.after(() => listener.close());

  const client = world.client(t, { key: TLS_ONLY.key, wsHost: "localhost", wssPort: listener.address().port });
  const errors = new Inbox().bind(client.connection, "error");
  const { data: error } = await errors.next("error");
  assert.equal(error.type, "WebSocketError");
  assert.equal(error.error.data.code, 4000);
  assert.ok(error.error.data.message.length > 0, "the close reason explains itself");
  // A TLS record with a handshake in it.
  assert.equal((await tls.next("hello")).data[0], 22);
  assert.equal(client.connection.state, "connecting");
});

test("an event that clients may not send is answered and the connection stays", async (t) => {
  const client = await world.connected(t);
  const errors = new Inbox().bind(client.connection, "error");
  client.connection.send_event("made-up", { any: "thing" });
  const { data: error } = await errors.next("error");
  assert.equal(error.type, "PusherError");
  assert.equal(error.data.code, null);
  assert.match(error.data.message, /Unsupported event/);
  await settled(client);
  assert.equal(client.connection.state, "connected");
});

test("broken frames are answered and the connection stays", async (t) => {
  const client = await world.connected(t);
  const errors = new Inbox().bind(client.connection, "error");
  for (const frame of ["not json", "[]", "1", "{}", '{"event":5}', '{"event":"pusher:subscribe"}']) {
    client.connection.send(frame);
    const { data: error } = await errors.next("error");
    assert.equal(error.data.code, null, frame);
    assert.equal(typeof error.data.message, "string", frame);
  }
  await settled(client);
});

test("a drained server sends its clients on at once (4200)", async (t) => {
  // Behind a balancer: new connections reach the second server as soon as the first one stops.
  const [first, second] = await Promise.all([Fanfare.start(), Fanfare.start()]);
  t.after(() => second.stop());
  const entrance = await Entrance.open(first);
  t.after(() => entrance.close());

  const client = world.client(t, { wsHost: entrance.host, wsPort: entrance.port });
  await connected(client);
  const before = client.connection.socket_id;
  const channel = await subscribed(client, "moving");
  const inbox = new Inbox().bind(channel, "hello", "pusher:subscription_succeeded");
  const errors = new Inbox().bind(client.connection, "error");
  const states = new Inbox().bind(client.connection, "state_change");

  entrance.lead(second);
  const stopped = first.stop();
  const { data: error } = await errors.next("error");
  assert.equal(error.data.code, 4200);
  assert.ok(error.data.message.length > 0);
  // Any other close would make pusher-js wait a second first. However late its timers and this one are,
  // they come in their order.
  assert.equal((await states.next(undefined, 900)).data.current, "connecting");
  await inbox.next("pusher:subscription_succeeded");
  assert.notEqual(client.connection.socket_id, before);
  await stopped;

  await world.sdk(APP, { host: second.host, port: second.port }).trigger("moving", "hello", { from: "second" });
  assert.deepEqual((await inbox.next("hello")).data, { from: "second" });
});

test("a client that was too slow comes back after a second (4100)", async (t) => {
  const entrance = await Entrance.open(world.server);
  t.after(() => entrance.close());
  const client = world.client(t, { wsHost: entrance.host, wsPort: entrance.port });
  await connected(client);
  const channel = await subscribed(client, "torrent");
  const inbox = new Inbox().bind(channel, "pusher:subscription_succeeded");
  const errors = new Inbox().bind(client.connection, "error");
  const states = new Inbox().bind(client.connection, "state_change");

  entrance.stall();
  const flood = { name: "drop", channel: "torrent", data: "x".repeat(10_000) };
  for (let rounds = 0; (await world.get("/channels/torrent")).occupied; rounds++) {
    assert.ok(rounds < 1_000, "a stalled client is never closed");
    await world.api.triggerBatch(Array(10).fill(flood));
  }
  entrance.resume();

  const { data: error } = await errors.next("error");
  assert.equal(error.data.code, 4100);
  assert.match(error.data.message, /slow/i);
  const closed = performance.now();
  assert.equal((await states.next()).data.current, "connecting");
  assert.ok(performance.now() - closed >= 900, "pusher-js waits a second after 4100");
  await inbox.next("pusher:subscription_succeeded");
});

test("clients find a restarted server again by themselves", async (t) => {
  // An address of its own, so that nothing else takes the port in between.
  const listen = "127.0.77.1";
  const server = await Fanfare.start({ listen: `${listen}:0` });
  const client = world.client(t, { wsHost: server.host, wsPort: server.port });
  await connected(client);
  const inbox = new Inbox().bind(await subscribed(client, "restart"), "hello", "pusher:subscription_succeeded");
  const states = new Inbox().bind(client.connection, "state_change");

  await server.stop();
  assert.equal((await states.next()).data.current, "connecting");
  const again = await Fanfare.start({ listen: server.address });
  t.after(() => again.stop());
  assert.equal(again.port, server.port);

  // pusher-js looks again every 15 s when nobody answered.
  await inbox.next("pusher:subscription_succeeded", 40_000);
  await world.sdk(APP, { host: again.host, port: again.port }).trigger("restart", "hello", "back");
  assert.equal((await inbox.next("hello")).data, "back");
});
