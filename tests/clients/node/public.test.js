// Public channels: subscribing with pusher-js, publishing with the server SDK.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Inbox } from "./support/wait.js";
import { World, refusal, settled, subscribed } from "./support/world.js";

let world;
before(async () => {
  world = await World.start();
});
after(() => world.stop());

test("one event reaches the subscribers of its channel and nobody else", async (t) => {
  const [one, two, other] = await Promise.all([world.connected(t), world.connected(t), world.connected(t)]);
  const inboxes = await Promise.all([one, two].map(async (client) => (
    new Inbox().bind(await subscribed(client, "news"), "flash")
  )));
  const strays = new Inbox();
  other.bind_global((name, data) => strays.put({ name, data }));
  const elsewhere = new Inbox().bind(await subscribed(other, "weather"), "flash", "end");
  strays.items.length = 0;

  const response = await world.api.trigger("news", "flash", { text: "hello" });
  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type"), /^application\/json/);
  assert.equal(await response.text(), "{}");
  for (const inbox of inboxes) {
    const { data, metadata } = await inbox.next("flash");
    assert.deepEqual(data, { text: "hello" });
    assert.deepEqual(metadata, {});
  }
  await world.api.trigger("weather", "end", {});
  await elsewhere.next("end");
  assert.deepEqual(strays.items.map(({ name }) => name), ["end"]);
});

test("a hundred channels in one call", async (t) => {
  const client = await world.connected(t);
  const names = Array.from({ length: 100 }, (_, n) => `many-${n}`);
  const channels = await Promise.all(names.map((name) => subscribed(client, name)));
  const inbox = new Inbox();
  for (const channel of channels) {
    channel.bind("tick", (data) => inbox.put({ name: channel.name, data }));
  }
  await world.api.trigger(names, "tick", 1);
  const received = await inbox.take(100);
  assert.deepEqual(received.map(({ name }) => name).sort(), [...names].sort());
  await settled(client);
  assert.deepEqual(inbox.items, []);
});

test("more than a hundred channels are refused", async () => {
  const channels = Array.from({ length: 101 }, (_, n) => `many-${n}`);
  assert.throws(() => world.api.trigger(channels, "tick", 1), /more than 100 channels/);
  const error = await refusal(world.api.post({ path: "/events", body: { name: "tick", data: "1", channels } }));
  assert.equal(error.status, 400);
});

test("a channel named twice in one call gets the event once", async (t) => {
  const client = await world.connected(t);
  const inbox = new Inbox().bind(await subscribed(client, "twice"), "tick", "end");
  await world.api.trigger(["twice", "twice"], "tick", 1);
  await world.api.trigger("twice", "end", 1);
  await inbox.next("tick");
  await inbox.next("end");
});

test("a batch carries different events to different channels", async (t) => {
  const client = await world.connected(t);
  const inbox = new Inbox();
  for (const name of ["batch-a", "batch-b"]) {
    inbox.bind(await subscribed(client, name), "one", "two");
  }
  const batch = [
    { channel: "batch-a", name: "one", data: { n: 1 } },
    { channel: "batch-b", name: "two", data: "plain" },
    ...Array.from({ length: 8 }, (_, n) => ({ channel: `batch-nobody-${n}`, name: "one", data: n })),
  ];
  const response = await world.api.triggerBatch(batch);
  assert.equal(await response.text(), "{}");
  assert.deepEqual((await inbox.take(2)).map(({ name, data }) => ({ name, data })), [
    { name: "one", data: { n: 1 } },
    { name: "two", data: "plain" },
  ]);
});

test("a batch of eleven is refused, and one bad event spoils its batch", async (t) => {
  const client = await world.connected(t);
  const inbox = new Inbox().bind(await subscribed(client, "spoilt"), "good", "end");
  const eleven = Array.from({ length: 11 }, () => ({ channel: "spoilt", name: "good", data: "x" }));
  const tooMany = await refusal(world.api.triggerBatch(eleven));
  assert.equal(tooMany.status, 400);
  assert.match(tooMany.body, /Batch too large/);

  const spoilt = await refusal(world.api.triggerBatch([
    { channel: "spoilt", name: "good", data: "x" },
    { channel: "not a channel", name: "good", data: "x" },
  ]));
  assert.equal(spoilt.status, 400);
  await world.api.trigger("spoilt", "end", "x");
  await inbox.next("end");
});

test("trigger answers with the counts it is asked for", async (t) => {
  const client = await world.connected(t);
  await subscribed(client, "counted");
  await subscribed(client, "presence-counted");
  const response = await world.api.trigger(
    ["counted", "presence-counted", "presence-empty"],
    "tick",
    1,
    { info: "user_count,subscription_count" },
  );
  assert.deepEqual(await response.json(), {
    channels: {
      counted: { subscription_count: 1 },
      "presence-counted": { user_count: 1, subscription_count: 1 },
      "presence-empty": { user_count: 0, subscription_count: 0 },
    },
  });
});

test("a batch answers with one entry per event", async (t) => {
  const client = await world.connected(t);
  await subscribed(client, "counted-batch");
  const response = await world.api.triggerBatch([
    { channel: "counted-batch", name: "tick", data: "1", info: "subscription_count" },
    { channel: "counted-batch", name: "tick", data: "2" },
  ]);
  assert.deepEqual(await response.json(), { batch: [{ subscription_count: 1 }, {}] });
});

test("an unknown info attribute is refused", async () => {
  const error = await refusal(world.api.trigger("counted", "tick", 1, { info: "shoe_size" }));
  assert.equal(error.status, 400);
  assert.match(error.body, /info should be a comma separated list of attributes/);
});

test("socket_id keeps an event from its sender", async (t) => {
  const [sender, other] = await Promise.all([world.connected(t), world.connected(t)]);
  const mine = new Inbox().bind(await subscribed(sender, "others"), "said", "end");
  const theirs = new Inbox().bind(await subscribed(other, "others"), "said", "end");
  await world.api.trigger("others", "said", "hi", { socket_id: sender.connection.socket_id });
  await world.api.trigger("others", "end", "");
  await mine.next("end");
  await theirs.next("said");
  await theirs.next("end");
});

test("a malformed socket_id is refused", async () => {
  assert.throws(() => world.api.trigger("others", "said", "hi", { socket_id: "12" }), /Invalid socket id/);
  const error = await refusal(world.api.post({
    path: "/events",
    body: { name: "said", channels: ["others"], data: "hi", socket_id: "12" },
  }));
  assert.equal(error.status, 400);
});

test("data arrives as it was published", async (t) => {
  const client = await world.connected(t);
  const inbox = new Inbox().bind(await subscribed(client, "forms"), "form");
  const forms = [
    "plain text",
    "",
    "déjà vu, 日本語, Ünïcödé",
    "🎺🎺 fanfare 👩‍👩‍👧‍👦",
    "nul \u0000 and line\nbreak \\ \" quote",
    { nested: { "ключ": ["значение", null, true, 1.5] } },
    [],
    [1, "two", { three: 3 }],
    0,
    "<script>&amp;</script>",
  ];
  for (const form of forms) {
    await world.api.trigger("forms", "form", form);
    assert.deepEqual((await inbox.next("form")).data, form);
  }
});

test("event names of any framework pass", async (t) => {
  const client = await world.connected(t);
  const channel = await subscribed(client, "names");
  for (const name of ["App\\Events\\Shipped", ".dotted", "with space", "日本", "x".repeat(200)]) {
    const inbox = new Inbox().bind(channel, name);
    await world.api.trigger("names", name, 1);
    await inbox.next(name);
  }
});

test("10 240 bytes of data pass, one more is 413", async (t) => {
  const client = await world.connected(t);
  const inbox = new Inbox().bind(await subscribed(client, "large"), "form");
  const most = "é".repeat(5_120);
  await world.api.trigger("large", "form", most);
  assert.equal((await inbox.next("form")).data, most);
  const error = await refusal(world.api.trigger("large", "form", `${most}!`));
  assert.equal(error.status, 413);
  assert.match(error.body, /content of this event/);
});

test("what is not a publishable event is refused", async () => {
  const good = { name: "n", channels: ["c"], data: "d" };
  for (const [why, body] of Object.entries({
    "no name": { ...good, name: undefined },
    "a name that is no string": { ...good, name: 5 },
    "a name of 201 characters": { ...good, name: "x".repeat(201) },
    "a protocol event": { ...good, name: "pusher:error" },
    "an internal event": { ...good, name: "pusher_internal:member_added" },
    "no data": { ...good, data: undefined },
    "data that is no string": { ...good, data: { an: "object" } },
    "no channels": { ...good, channels: undefined },
    "an empty list of channels": { ...good, channels: [] },
    "a channel with a space": { ...good, channels: ["a b"] },
    "a channel of 201 characters": { ...good, channels: ["c".repeat(201)] },
    "a channel that is no string": { ...good, channels: [1] },
  })) {
    const error = await refusal(world.api.post({ path: "/events", body }));
    assert.equal(error.status, 400, why);
    assert.ok(error.body.length > 1, `${why}: the text explains it`);
  }
});

test("sequential publishes arrive in order", async (t) => {
  const client = await world.connected(t);
  const inbox = new Inbox().bind(await subscribed(client, "order"), "n");
  const count = 300;
  for (let n = 0; n < count; n++) await world.api.trigger("order", "n", n);
  const received = (await inbox.take(count)).map(({ data }) => data);
  assert.deepEqual(received, Array.from({ length: count }, (_, n) => n));
});

test("after unsubscribing nothing arrives, after subscribing again it does", async (t) => {
  const client = await world.connected(t);
  const all = new Inbox();
  client.bind_global((name, data) => all.put({ name, data }));
  await subscribed(client, "leaving");
  client.unsubscribe("leaving");
  await settled(client);
  all.items.length = 0;
  await world.api.trigger("leaving", "unheard", 1);
  await settled(client);
  assert.deepEqual(all.items.filter(({ name }) => name === "unheard"), []);

  const inbox = new Inbox().bind(await subscribed(client, "leaving"), "heard");
  await world.api.trigger("leaving", "heard", 2);
  assert.equal((await inbox.next("heard")).data, 2);
});

test("subscribe, unsubscribe, subscribe in one breath ends subscribed", async (t) => {
  const client = await world.connected(t);
  client.subscribe("hasty");
  client.unsubscribe("hasty");
  const channel = client.subscribe("hasty");
  const inbox = new Inbox().bind(channel, "pusher:subscription_succeeded", "tick");
  await inbox.next("pusher:subscription_succeeded");
  await world.api.trigger("hasty", "tick", 1);
  await inbox.next("tick");
});

test("a channel name that is not allowed is refused and the connection stays", async (t) => {
  const client = await world.connected(t);
  const errors = new Inbox().bind(client.connection, "error");
  for (const name of ["has space", "umläut", "x".repeat(201), "a/b"]) {
    client.subscribe(name);
    const { data: error } = await errors.next("error");
    assert.equal(error.data.code, null);
  }
  await subscribed(client, "still-works");
});
