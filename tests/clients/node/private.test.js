// Private channels, authorised by a real route of the customer's application.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Inbox } from "./support/wait.js";
import { World, settled, subscribed } from "./support/world.js";

let world;
before(async () => {
  world = await World.start();
});
after(() => world.stop());

for (const [kind, auth] of [
  ["the channel alone", "/plain/auth"],
  ["channel_data as well, as routes shared with presence do", "/with-user/auth"],
  ["channel_data on presence only, as Laravel does", "/broadcasting/auth"],
]) {
  test(`a route that signs ${kind} is accepted`, async (t) => {
    const client = await world.connected(t, { auth });
    const channel = await subscribed(client, "private-orders");
    assert.deepEqual(channel.greeting, {});
    const inbox = new Inbox().bind(channel, "shipped");
    await world.api.trigger("private-orders", "shipped", { id: 7 });
    const { data, metadata } = await inbox.next("shipped");
    assert.deepEqual(data, { id: 7 });
    assert.deepEqual(metadata, {});
  });
}

test("channel_data with characters outside ASCII is signed and accepted", async (t) => {
  const client = await world.connected(t, { auth: "/with-user/auth", as: "bob" });
  await subscribed(client, "private-orders");
});

for (const [why, auth] of [
  ["with another secret", "/wrong-secret/auth"],
  ["for another channel", "/wrong-channel/auth"],
  ["for another connection", "/wrong-socket/auth"],
  ["over other channel_data", "/tampered/auth"],
]) {
  test(`a signature made ${why} is refused: the channel's error binding hears of it`, async (t) => {
    const client = await world.connected(t, { auth });
    const errors = new Inbox().bind(client.connection, "error");
    const channel = client.subscribe("private-orders");
    const inbox = new Inbox().bind(channel, "pusher:subscription_succeeded", "pusher:subscription_error", "secret");

    const { data } = await inbox.next("pusher:subscription_error");
    assert.equal(data.type, "AuthError");
    assert.equal(data.status, 401);
    assert.ok(data.error.length > 0);
    const { data: error } = await errors.next("error");
    assert.equal(error.data.code, null);
    assert.match(error.data.message, /Invalid signature/);

    await world.api.trigger("private-orders", "secret", 1);
    await settled(client);
    assert.equal(channel.subscribed, false);
    assert.deepEqual(inbox.items, []);
    // One refusal does not spoil the connection.
    await subscribed(client, "public-orders");
  });
}

test("no signature at all is refused", async (t) => {
  const client = await world.connected(t);
  const errors = new Inbox().bind(client.connection, "error");
  for (const data of [
    { channel: "private-bare" },
    { channel: "private-bare", auth: "" },
    { channel: "private-bare", auth: "nocolon" },
    { channel: "private-bare", auth: `other-key:${"0".repeat(64)}` },
  ]) {
    client.connection.send_event("pusher:subscribe", data);
    assert.equal((await errors.next("error")).data.data.code, null, JSON.stringify(data));
  }
});

test("a route that says no is the client's own error", async (t) => {
  const client = await world.connected(t, { auth: "/no-such-route" });
  const inbox = new Inbox().bind(client.subscribe("private-orders"), "pusher:subscription_error");
  const { data } = await inbox.next("pusher:subscription_error");
  assert.equal(data.type, "AuthError");
  assert.equal(data.status, 403);
});
