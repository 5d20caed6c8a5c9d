// How many subscribers a channel has, as pusher-js hears it.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { COUNTED, QUIET } from "./support/fanfare.js";
import { Inbox } from "./support/wait.js";
import { World, settled, signedIn } from "./support/world.js";

let world;
before(async () => {
  world = await World.start(COUNTED);
});
after(() => world.stop());

const COUNT = "pusher:subscription_count";

/** Subscribes; `inbox` has what is heard after the success. */
async function joined(client, name) {
  const channel = client.subscribe(name);
  const inbox = new Inbox().bind(channel, "pusher:subscription_succeeded", "pusher:subscription_error", COUNT, "end");
  await inbox.next("pusher:subscription_succeeded");
  return { client, channel, inbox };
}

/** The next thing heard is that there are `count` subscribers. */
async function hears({ channel, inbox }, count) {
  assert.deepEqual((await inbox.next(COUNT)).data, { subscription_count: count });
  assert.equal(channel.subscriptionCount, count);
}

for (const name of ["count-open", "private-count", "cache-count", "private-cache-count"]) {
  test(`subscribers of ${name} hear how many they are`, async (t) => {
    const one = await joined(await world.connected(t), name);
    await hears(one, 1);
    // Connections count, not users.
    const two = await joined(await world.connected(t), name);
    for (const each of [one, two]) await hears(each, 2);
    const three = await joined(await world.connected(t, { as: "bob" }), name);
    for (const each of [one, two, three]) await hears(each, 3);
    assert.deepEqual(
      await world.get(`/channels/${name}`, { info: "subscription_count" }),
      { occupied: true, subscription_count: 3 },
    );

    two.client.unsubscribe(name);
    for (const each of [one, three]) await hears(each, 2);
    three.client.disconnect();
    await hears(one, 1);
    await hears(await joined(two.client, name), 2);
    await hears(one, 2);
    await world.api.trigger(name, "end", 1);
    await one.inbox.next("end");
  });
}

test("a crowd hears its number too, in time", async (t) => {
  const clients = await Promise.all(Array.from({ length: 120 }, () => world.connected(t)));
  const crowd = await Promise.all(clients.map((client) => joined(client, "count-crowd")));
  await Promise.all(crowd.map(async ({ channel, inbox }) => {
    let heard = 0;
    while (heard !== 120) heard = (await inbox.next(COUNT)).data.subscription_count;
    assert.equal(channel.subscriptionCount, 120);
  }));
});

test("members of a presence channel hear no number", async (t) => {
  const one = await joined(await world.connected(t), "presence-count");
  const two = await joined(await world.connected(t, { as: "bob" }), "presence-count");
  const three = await joined(await world.connected(t, { as: "bob" }), "presence-count");
  two.client.unsubscribe("presence-count");
  await settled(two.client);
  await world.api.trigger("presence-count", "end", 1);
  for (const each of [one, three]) {
    await each.inbox.next("end");
    assert.equal(each.channel.subscriptionCount, undefined);
  }
});

test("a user's own connections hear no number", async (t) => {
  const client = await world.connected(t);
  const frames = new Inbox();
  client.connection.bind("message", ({ event }) => {
    if (event === "pusher_internal:subscription_count") frames.put({ name: event });
  });
  await signedIn(client);
  await signedIn(await world.connected(t));
  const inbox = new Inbox().bind(client.user, "end");
  await world.api.sendToUser("ada", "end", 1);
  await inbox.next("end");
  assert.deepEqual(frames.items, []);
});

test("whoever is refused does not count", async (t) => {
  const one = await joined(await world.connected(t), "private-count-guarded");
  await hears(one, 1);
  const eve = await world.connected(t, { auth: "/wrong-secret/auth" });
  const theirs = new Inbox().bind(eve.subscribe("private-count-guarded"), "pusher:subscription_error", COUNT);
  await theirs.next("pusher:subscription_error");
  await settled(eve);

  // Nor does whoever asks again, or leaves a channel it is not in.
  const errors = new Inbox().bind(one.client.connection, "error");
  const answer = world.api.authorizeChannel(one.client.connection.socket_id, "private-count-guarded");
  one.client.connection.send_event("pusher:subscribe", { channel: "private-count-guarded", ...answer });
  assert.match((await errors.next("error")).data.data.message, /Existing subscription/);
  eve.connection.send_event("pusher:unsubscribe", { channel: "private-count-guarded" });
  await settled(eve);

  await world.api.trigger("private-count-guarded", "end", 1);
  await one.inbox.next("end");
  assert.deepEqual(theirs.items, []);
  assert.equal(one.channel.subscriptionCount, 1);
});

test("clients cannot publish numbers of their own", async (t) => {
  const one = await joined(await world.connected(t), "private-count-forged");
  await hears(one, 1);
  const two = await joined(await world.connected(t), "private-count-forged");
  for (const each of [one, two]) await hears(each, 2);
  const errors = new Inbox().bind(two.client.connection, "error");
  const forged = { subscription_count: 9 };
  two.client.connection.send_event("pusher_internal:subscription_count", forged, "private-count-forged");
  assert.equal((await errors.next("error")).data.data.code, null);
  await world.api.trigger("private-count-forged", "end", 1);
  await one.inbox.next("end");
});

for (const name of ["count-open", "private-count", "presence-count"]) {
  test(`without the feature nobody on ${name} hears a number`, async (t) => {
    const there = await world.beside(t, QUIET);
    const one = await joined(await there.connected(t), name);
    const two = await joined(await there.connected(t, { as: "bob" }), name);
    two.client.unsubscribe(name);
    await settled(two.client);
    await there.api.trigger(name, "end", 1);
    await one.inbox.next("end");
    assert.equal(one.channel.subscriptionCount, undefined);
  });
}
