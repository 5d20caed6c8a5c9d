// Client events: from one browser to the others without a round through the backend.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { QUIET } from "./support/fanfare.js";
import { Inbox } from "./support/wait.js";
import { World, settled, subscribed } from "./support/world.js";

let world;
before(async () => {
  world = await World.start();
});
after(() => world.stop());

async function pair(t, name) {
  const [ada, bob] = await Promise.all([world.connected(t), world.connected(t, { as: "bob" })]);
  return {
    ada,
    bob,
    adas: await subscribed(ada, name),
    bobs: await subscribed(bob, name),
  };
}

test("both ways on a private channel, never back to the sender", async (t) => {
  const { ada, bob, adas, bobs } = await pair(t, "private-chat");
  const atAda = new Inbox().bind(adas, "client-said");
  const atBob = new Inbox().bind(bobs, "client-said");
  assert.equal(adas.trigger("client-said", { text: "hello, 🎺" }), true);
  const heard = await atBob.next("client-said");
  assert.deepEqual(heard.data, { text: "hello, 🎺" });
  assert.deepEqual(heard.metadata, {});
  bobs.trigger("client-said", { text: "hi" });
  assert.deepEqual((await atAda.next("client-said")).data, { text: "hi" });
  await settled(ada);
  await settled(bob);
  assert.deepEqual([...atAda.items, ...atBob.items], []);
});

test("on a presence channel the receiver learns who spoke", async (t) => {
  const { adas, bobs } = await pair(t, "presence-chat");
  const atAda = new Inbox().bind(adas, "client-said");
  const atBob = new Inbox().bind(bobs, "client-said");
  adas.trigger("client-said", { user_id: "mallory" });
  const toBob = await atBob.next("client-said");
  assert.deepEqual(toBob.metadata, { user_id: "ada" });
  assert.deepEqual(toBob.data, { user_id: "mallory" });
  bobs.trigger("client-said", "hi");
  assert.deepEqual((await atAda.next("client-said")).metadata, { user_id: "bob" });
});

test("a user_id beside the data is not passed on", async (t) => {
  const { ada, bobs } = await pair(t, "presence-forged");
  const atBob = new Inbox().bind(bobs, "client-said");
  ada.connection.send(JSON.stringify({
    event: "client-said", channel: "presence-forged", data: "x", user_id: "mallory", more: 1,
  }));
  assert.deepEqual((await atBob.next("client-said")).metadata, { user_id: "ada" });
});

test("data of every form arrives as it was sent", async (t) => {
  const { adas, bobs } = await pair(t, "private-forms");
  const atBob = new Inbox().bind(bobs, "client-form");
  for (const form of [{ a: { b: [1, null, "é"] } }, [1, 2], "plain text", "日本 🎺", 5, true, {}]) {
    adas.trigger("client-form", form);
    assert.deepEqual((await atBob.next("client-form")).data, form);
  }
});

test("the other tab of the same user hears it", async (t) => {
  const [one, two] = await Promise.all([world.connected(t), world.connected(t)]);
  const mine = await subscribed(one, "presence-same");
  const inbox = new Inbox().bind(await subscribed(two, "presence-same"), "client-said");
  mine.trigger("client-said", 1);
  assert.deepEqual((await inbox.next("client-said")).metadata, { user_id: "ada" });
});

test("more than ten at once: ten are delivered, the rest is answered with 4301", async (t) => {
  const { ada, bob, adas, bobs } = await pair(t, "private-flood");
  const atBob = new Inbox().bind(bobs, "client-n");
  const errors = new Inbox().bind(ada.connection, "error");
  for (let n = 0; n < 30; n++) adas.trigger("client-n", n);
  await settled(ada);
  await settled(bob);
  const delivered = atBob.items.map(({ data }) => data);
  assert.deepEqual(delivered.slice(0, 10), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  // A slow machine may earn a place or two while it sends.
  assert.ok(delivered.length < 20, `${delivered.length} of 30 delivered`);
  assert.equal(errors.items.length, 30 - delivered.length);
  for (const { data: error } of errors.items) assert.equal(error.data.code, 4301);
  assert.equal(ada.connection.state, "connected");
});

for (const [why, channel, message] of [
  ["on a public channel", "chat", /only supported on private and presence channels/],
  ["on a channel one is not in", "private-not-joined", /not subscribed/],
]) {
  test(`${why} it is refused`, async (t) => {
    const [sender, listener] = await Promise.all([world.connected(t), world.connected(t)]);
    const inbox = new Inbox().bind(await subscribed(listener, channel), "client-said", "end");
    if (channel === "chat") await subscribed(sender, channel);
    const errors = new Inbox().bind(sender.connection, "error");
    sender.connection.send_event("client-said", { a: 1 }, channel);
    const { data: error } = await errors.next("error");
    assert.equal(error.data.code, null);
    assert.match(error.data.message, message);
    await world.api.trigger(channel, "end", 1);
    await inbox.next("end");
  });
}

test("an event without channel or without data is refused", async (t) => {
  const { ada } = await pair(t, "private-incomplete");
  const errors = new Inbox().bind(ada.connection, "error");
  for (const frame of [
    { event: "client-said", data: "x" },
    { event: "client-said", channel: "private-incomplete" },
  ]) {
    ada.connection.send(JSON.stringify(frame));
    assert.equal((await errors.next("error")).data.data.code, null, JSON.stringify(frame));
  }
});

test("an app without client events says so", async (t) => {
  const api = world.sdk(QUIET);
  const client = await world.connected(t, {
    key: QUIET.key,
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, done) => done(null, api.authorizeChannel(socketId, channelName)),
    },
  });
  const channel = await subscribed(client, "private-quiet");
  const errors = new Inbox().bind(client.connection, "error");
  channel.trigger("client-said", {});
  const { data: error } = await errors.next("error");
  assert.equal(error.data.code, null);
  assert.match(error.data.message, /enable/);
});
