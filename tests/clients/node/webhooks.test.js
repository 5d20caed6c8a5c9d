// Webhooks as the server SDK's users receive them: raw body and headers go to `pusher.webhook()`.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { APP, QUIET } from "./support/fanfare.js";
import { Inbox } from "./support/wait.js";
import { World, settled, subscribed } from "./support/world.js";

/** The customer's own server: keeps every request as it came. */
class Receiver {
  static async open() {
    const receiver = new Receiver();
    receiver.inbox = new Inbox();
    receiver.http = createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      receiver.inbox.put({ headers: request.headers, rawBody: Buffer.concat(chunks).toString("utf8") });
      response.end();
    });
    await new Promise((resolve) => receiver.http.listen(0, "127.0.0.1", resolve));
    receiver.url = `http://127.0.0.1:${receiver.http.address().port}/hook`;
    return receiver;
  }

  close() {
    this.http.closeAllConnections();
    return new Promise((resolve) => this.http.close(resolve));
  }
}

let receiver;
let world;
before(async () => {
  receiver = await Receiver.open();
  world = await World.start(undefined, { webhooks: receiver.url });
});
after(async () => {
  await world.stop();
  await receiver.close();
});

/** The next `count` events, each from a request that the SDK takes for genuine. */
async function told(count) {
  const events = [];
  while (events.length < count) {
    const request = await receiver.inbox.next();
    const webhook = world.api.webhook(request);
    assert.equal(webhook.isValid(), true, JSON.stringify(request));
    const age = Date.now() - webhook.getTime().getTime();
    assert.ok(Math.abs(age) < 60_000, `of another time: ${webhook.getTime()}`);
    events.push(...webhook.getEvents());

    // And so that this can fail:
    const altered = { ...request, rawBody: request.rawBody.replace("time_ms", "time_MS") };
    assert.equal(world.api.webhook(altered).isValid(), false);
    assert.equal(world.sdk(QUIET).webhook(request).isValid(), false);
    assert.equal(world.sdk({ ...APP, secret: "guessed" }).webhook(request).isValid(), false);
  }
  return events;
}

// Case 168.
test("the SDK accepts every kind of event", async (t) => {
  const client = await world.connected(t);
  const room = await subscribed(client, "presence-room");
  room.trigger("client-said", { text: "hällo 🎺" });
  client.unsubscribe("presence-room");
  await settled(client);
  await subscribed(client, "cache-news");
  client.unsubscribe("cache-news");
  const events = await told(10);
  assert.deepEqual(events.filter(({ channel }) => channel === "presence-room"), [
    { name: "channel_occupied", channel: "presence-room" },
    { name: "member_added", channel: "presence-room", user_id: "ada" },
    {
      name: "client_event",
      channel: "presence-room",
      event: "client-said",
      data: '{"text":"hällo 🎺"}',
      socket_id: client.connection.socket_id,
      user_id: "ada",
    },
    { name: "member_removed", channel: "presence-room", user_id: "ada" },
    { name: "channel_vacated", channel: "presence-room" },
  ]);
  assert.deepEqual(events.filter(({ channel }) => channel === "cache-news"), [
    { name: "channel_occupied", channel: "cache-news" },
    { name: "cache_miss", channel: "cache-news" },
    { name: "subscription_count", channel: "cache-news", subscription_count: 1 },
    { name: "subscription_count", channel: "cache-news", subscription_count: 0 },
    { name: "channel_vacated", channel: "cache-news" },
  ]);
});

test("who reloads a page has never been away", async (t) => {
  const first = await world.connected(t);
  await subscribed(first, "presence-page");
  assert.deepEqual((await told(2)).map(({ name }) => name), ["channel_occupied", "member_added"]);
  first.disconnect();
  const second = await world.connected(t);
  const page = await subscribed(second, "presence-page");
  page.trigger("client-back", 1);
  second.unsubscribe("presence-page");
  const names = (await told(3)).map(({ name }) => name);
  assert.deepEqual(names, ["client_event", "member_removed", "channel_vacated"]);
});
