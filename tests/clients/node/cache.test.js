// Cache channels: a late joiner finds the last event.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Inbox } from "./support/wait.js";
import { World, refusal, settled, subscribed } from "./support/world.js";

let world;
before(async () => {
  world = await World.start();
});
after(() => world.stop());

const KINDS = ["cache-", "private-cache-", "presence-cache-", "private-encrypted-cache-"];

/** Subscribes and collects from the very first frame on. */
function join(client, name, ...events) {
  return new Inbox().bind(client.subscribe(name), "pusher:subscription_succeeded", "pusher:cache_miss", ...events);
}

for (const kind of KINDS) {
  test(`${kind}: an empty cache is a miss`, async (t) => {
    const client = await world.connected(t);
    const inbox = join(client, `${kind}empty`);
    await inbox.next("pusher:subscription_succeeded");
    await inbox.next("pusher:cache_miss");
  });

  test(`${kind}: the last event only, before any live one`, async (t) => {
    const channel = `${kind}scores`;
    await world.api.trigger(channel, "score", { home: 1 });
    await world.api.trigger(channel, "final", { home: 2, cheer: "🎺" });
    const client = await world.connected(t);
    const inbox = join(client, channel, "score", "final");
    await inbox.next("pusher:subscription_succeeded");
    const replayed = await inbox.next("final");
    assert.deepEqual(replayed.data, { home: 2, cheer: "🎺" });
    assert.deepEqual(replayed.metadata ?? {}, {}, "no marker of any kind");
    await world.api.trigger(channel, "score", { home: 3 });
    assert.deepEqual((await inbox.next("score")).data, { home: 3 });
  });
}

test("the cache outlives its last subscriber", async (t) => {
  const client = await world.connected(t);
  const first = join(client, "cache-lasting", "score");
  await first.next("pusher:subscription_succeeded");
  await first.next("pusher:cache_miss");
  await world.api.trigger("cache-lasting", "score", 1);
  await first.next("score");
  client.unsubscribe("cache-lasting");
  await settled(client);
  const again = join(client, "cache-lasting", "score");
  await again.next("pusher:subscription_succeeded");
  assert.equal((await again.next("score")).data, 1);
});

test("an event kept from its sender is cached all the same", async (t) => {
  const client = await world.connected(t);
  await world.api.trigger("cache-excluded", "score", 1, { socket_id: client.connection.socket_id });
  const inbox = join(client, "cache-excluded", "score");
  await inbox.next("pusher:subscription_succeeded");
  await inbox.next("score");
});

test("client events are not cached", async (t) => {
  const [one, two] = await Promise.all([world.connected(t), world.connected(t)]);
  const channel = await subscribed(one, "private-cache-chat");
  channel.trigger("client-said", 1);
  await settled(one);
  const inbox = join(two, "private-cache-chat", "client-said");
  await inbox.next("pusher:subscription_succeeded");
  await inbox.next("pusher:cache_miss");
});

test("a name that merely contains cache- is no cache channel", async (t) => {
  await world.api.trigger("x-cache-scores", "score", 1);
  const client = await world.connected(t);
  const inbox = join(client, "x-cache-scores", "score", "end");
  await inbox.next("pusher:subscription_succeeded");
  await world.api.trigger("x-cache-scores", "end", 1);
  await inbox.next("end");
});

test("the API shows the cached event and its age", async () => {
  await world.api.trigger("cache-shown", "score", { home: 1 });
  const { cache } = await world.get("/channels/cache-shown", { info: "cache" });
  assert.equal(cache.data, JSON.stringify({ home: 1 }));
  assert.ok(Number.isInteger(cache.ttl) && cache.ttl > 1_700 && cache.ttl <= 1_800, `ttl ${cache.ttl}`);
  assert.equal((await world.get("/channels/cache-nothing", { info: "cache" })).cache, null);
});

test("asking another channel for its cache is refused", async () => {
  const error = await refusal(world.api.get({ path: "/channels/no-cache", params: { info: "cache" } }));
  assert.equal(error.status, 400);
});
