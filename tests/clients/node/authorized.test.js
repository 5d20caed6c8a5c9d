// Apps whose clients have to authorise something, within a few seconds here, or are closed.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { AUTHORIZED, GATED, QUIET } from "./support/fanfare.js";
import { Inbox } from "./support/wait.js";
import { World, connected, settled, signedIn, subscribed } from "./support/world.js";

let world;
before(async () => {
  world = await World.start(AUTHORIZED);
});
after(() => world.stop());

/** What happens to a connection. */
function fate(client) {
  return {
    errors: new Inbox().bind(client.connection, "error"),
    states: new Inbox().bind(client.connection, "state_change"),
    retries: new Inbox().bind(client.connection, "connecting_in"),
  };
}

/** Waits for the end of a connection that has authorised nothing. */
async function expired(client, { errors, states, retries }) {
  assert.deepEqual((await states.next()).data, { previous: "connected", current: "disconnected" });
  const codes = errors.items.map(({ data }) => (data.type === "WebSocketError" ? data.error : data).data);
  assert.ok(codes.some(({ code }) => code === 4009), JSON.stringify(codes));
  assert.ok(codes.every(({ code, message }) => code === null || (code === 4009 && /authorized/.test(message))));
  assert.equal(client.connection.state, "disconnected");
  assert.deepEqual([...states.items, ...retries.items], []);
}

/** Returns once a connection made now has been closed for having authorised nothing. */
async function timePasses(t) {
  const idle = await world.connected(t);
  await expired(idle, fate(idle));
}

test("a client that does nothing is closed for good (4009)", async (t) => {
  const client = await world.connected(t);
  await expired(client, fate(client));
  // It may try again.
  client.connect();
  await connected(client);
  await subscribed(client, "private-second-try");
});

for (const [what, authorise] of [
  ["subscribes to a private channel", (client) => subscribed(client, "private-stay")],
  ["subscribes to a presence channel", (client) => subscribed(client, "presence-stay")],
  ["signs in", signedIn],
  ["leaves its private channel again", async (client) => {
    await subscribed(client, "private-stay");
    client.unsubscribe("private-stay");
  }],
]) {
  test(`a client that ${what} stays`, async (t) => {
    const client = await world.connected(t);
    const { errors, states } = fate(client);
    await authorise(client);
    await timePasses(t);
    const inbox = new Inbox().bind(await subscribed(client, "open"), "hello");
    await world.api.trigger("open", "hello", 1);
    await inbox.next("hello");
    assert.deepEqual([...errors.items, ...states.items], []);
  });
}

for (const [what, attempt, options] of [
  ["subscribes to a public channel only", (client) => subscribed(client, "open")],
  ["is refused a private channel", async (client) => {
    const inbox = new Inbox().bind(client.subscribe("private-stay"), "pusher:subscription_error");
    await inbox.next("pusher:subscription_error");
  }, { auth: "/wrong-secret/auth" }],
  ["is refused a sign-in", async (client) => {
    const inbox = new Inbox().bind(client.connection, "error");
    client.signin();
    assert.match((await inbox.next("error")).data.data.message, /Invalid signature/);
  }, { userAuth: "/wrong-secret/user-auth" }],
  ["only keeps talking", async (client) => {
    for (let n = 0; n < 20; n++) await settled(client);
  }],
]) {
  test(`a client that ${what} is closed (4009)`, async (t) => {
    const client = await world.connected(t, options);
    const end = fate(client);
    await attempt(client);
    await expired(client, end);
  });
}

test("a connection counts from its first authorisation, and one too many is closed (4004)", async (t) => {
  const there = await world.beside(t, GATED);
  const [first, second, third] = await Promise.all([1, 2, 3].map(() => there.connected(t)));
  await subscribed(first, "private-gated");
  const errors = new Inbox().bind(second.connection, "error");
  second.subscribe("private-gated");
  assert.equal((await errors.next("error")).data.data.code, 4004);
  const late = there.client(t);
  const refusal = new Inbox().bind(late.connection, "error");
  assert.equal((await refusal.next("error")).data.error.data.code, 4004);
  for (const client of [second, late]) assert.equal(client.connection.state, "disconnected");

  await settled(first);
  await settled(third);
  assert.deepEqual([first.connection.state, third.connection.state], ["connected", "connected"]);
});

test("clients of other apps are left alone", async (t) => {
  const there = await world.beside(t, QUIET);
  const client = await there.connected(t);
  const { errors, states } = fate(client);
  await timePasses(t);
  await settled(client);
  assert.deepEqual([...errors.items, ...states.items], []);
});
