// Signed-in users who watch others: pusher-js hears when those come and go.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Entrance } from "./support/entrance.js";
import { Fanfare, QUIET, WATCHED } from "./support/fanfare.js";
import { Inbox } from "./support/wait.js";
import { World, connected, settled, signedIn } from "./support/world.js";

let world;
before(async () => {
  world = await World.start(WATCHED);
});
after(() => world.stop());

/** What pusher-js passes to those who bind `online` and `offline`. */
const online = (...user_ids) => ({ name: "online", user_ids });
const offline = (...user_ids) => ({ name: "offline", user_ids });

/** A client of the user called `name`, signed in. */
async function user(t, name, options) {
  return signedIn(await world.connected(t, { as: name, ...options }));
}

/** Connects again; pusher-js then signs in by itself. */
async function back(client) {
  client.connect();
  await connected(client);
  await signedIn(client);
}

/** A client of a user called `name` that watches `friends`, and what it hears about them. */
async function watcher(t, name, friends, { there = world, ...options } = {}) {
  there.backend.friends[name] = friends;
  const client = await there.connected(t, { as: name, ...options });
  const inbox = new Inbox().bind(client.user.watchlist, "online", "offline");
  await signedIn(client);
  return { client, inbox };
}

async function heard({ inbox }) {
  return (await inbox.next()).data;
}

test("the first thing told is who is there and who is not", async (t) => {
  await user(t, "first-b");
  const watching = await watcher(t, "first-a", ["first-b", "first-c"]);
  assert.deepEqual(await heard(watching), online("first-b"));
  assert.deepEqual(await heard(watching), offline("first-c"));
});

test("then who comes and, after a while, who has gone", async (t) => {
  const watching = await watcher(t, "change-a", ["change-b", "change-c"]);
  assert.deepEqual(await heard(watching), offline("change-b", "change-c"));
  const bob = await user(t, "change-b");
  assert.deepEqual(await heard(watching), online("change-b"));
  bob.disconnect();
  assert.deepEqual(await heard(watching), offline("change-b"));
  await back(bob);
  assert.deepEqual(await heard(watching), online("change-b"));
  assert.equal(watching.client.connection.state, "connected");
});

test("every connection of a user is told", async (t) => {
  const watching = [
    await watcher(t, "tabs-a", ["tabs-b"]),
    await watcher(t, "tabs-a", ["tabs-b"]),
    await watcher(t, "tabs-c", ["tabs-b", "tabs-a"]),
  ];
  for (const one of watching.slice(0, 2)) assert.deepEqual(await heard(one), offline("tabs-b"));
  assert.deepEqual(await heard(watching[2]), online("tabs-a"));
  assert.deepEqual(await heard(watching[2]), offline("tabs-b"));
  await user(t, "tabs-b");
  for (const one of watching) assert.deepEqual(await heard(one), online("tabs-b"));
});

test("the reload of a page is not told", async (t) => {
  const watching = await watcher(t, "reload-a", ["reload-b", "reload-c"]);
  assert.deepEqual(await heard(watching), offline("reload-b", "reload-c"));
  const bob = await user(t, "reload-b");
  assert.deepEqual(await heard(watching), online("reload-b"));
  const cyd = await user(t, "reload-c");
  assert.deepEqual(await heard(watching), online("reload-c"));

  bob.disconnect();
  await user(t, "reload-b");
  // Whoever leaves later is told to be offline later: by then it is clear what is told of Bob.
  cyd.disconnect();
  assert.deepEqual(await heard(watching), offline("reload-c"));
  await back(cyd);
  assert.deepEqual(await heard(watching), online("reload-c"));
});

test("a user with two connections is offline when both have gone", async (t) => {
  const watching = await watcher(t, "two-a", ["two-b", "two-c"]);
  assert.deepEqual(await heard(watching), offline("two-b", "two-c"));
  const [one, two] = [await user(t, "two-b"), await user(t, "two-b")];
  assert.deepEqual(await heard(watching), online("two-b"));
  const cyd = await user(t, "two-c");
  assert.deepEqual(await heard(watching), online("two-c"));

  one.disconnect();
  cyd.disconnect();
  assert.deepEqual(await heard(watching), offline("two-c"));
  await back(cyd);
  assert.deepEqual(await heard(watching), online("two-c"));
  two.disconnect();
  assert.deepEqual(await heard(watching), offline("two-b"));
});

test("a connection that does not sign in makes nobody online", async (t) => {
  const watching = await watcher(t, "anonymous-a", ["anonymous-b", "anonymous-c"]);
  assert.deepEqual(await heard(watching), offline("anonymous-b", "anonymous-c"));
  const refused = await world.connected(t, { as: "anonymous-b", userAuth: "/wrong-secret/user-auth" });
  const errors = new Inbox().bind(refused.connection, "error");
  refused.signin();
  assert.equal((await errors.next("error")).data.data.code, null);
  await settled(refused);
  await user(t, "anonymous-c");
  assert.deepEqual(await heard(watching), online("anonymous-c"));
});

test("terminated users are offline", async (t) => {
  const watching = await watcher(t, "ended-a", ["ended-b"]);
  assert.deepEqual(await heard(watching), offline("ended-b"));
  await user(t, "ended-b");
  assert.deepEqual(await heard(watching), online("ended-b"));
  await world.api.terminateUserConnections("ended-b");
  assert.deepEqual(await heard(watching), offline("ended-b"));
});

test("of 101 users the first 100 are watched, and the client is told so (4302)", async (t) => {
  const friends = Array.from({ length: 101 }, (_, n) => `many-${n}`);
  world.backend.friends["many-a"] = friends;
  const client = await world.connected(t, { as: "many-a" });
  const errors = new Inbox().bind(client.connection, "error");
  const watching = { inbox: new Inbox().bind(client.user.watchlist, "online", "offline") };
  await signedIn(client);

  const { data: error } = await errors.next("error");
  assert.equal(error.type, "PusherError");
  assert.equal(error.data.code, 4302);
  assert.match(error.data.message, /100/);
  const first = await heard(watching);
  assert.equal(first.name, "offline");
  assert.deepEqual(first.user_ids.sort(), friends.slice(0, 100).sort());

  await user(t, "many-100");
  await user(t, "many-99");
  assert.deepEqual(await heard(watching), online("many-99"));
  await settled(client);
  assert.equal(client.connection.state, "connected");
  assert.deepEqual(errors.items, []);
});

test("of a watchlist with other things in it the ids are watched", async (t) => {
  const friends = [5, null, { id: "odd-c" }, ["odd-c"], "", "odd-b", "odd-b", true];
  const watching = await watcher(t, "odd-a", friends);
  const errors = new Inbox().bind(watching.client.connection, "error");
  assert.deepEqual(await heard(watching), offline("odd-b"));
  await user(t, "odd-c");
  await user(t, "odd-b");
  assert.deepEqual(await heard(watching), online("odd-b"));
  assert.deepEqual(errors.items, []);
});

for (const [what, friends] of [
  ["a text", "none-b"],
  ["an object", { 0: "none-b" }],
  ["a number", 1],
  ["null", null],
  ["empty", []],
]) {
  test(`a watchlist that is ${what} watches nobody and harms nobody`, async (t) => {
    const watching = await watcher(t, "none-a", friends);
    const errors = new Inbox().bind(watching.client.connection, "error");
    await user(t, "none-b");
    watching.inbox.bind(watching.client.user, "end");
    await world.api.sendToUser("none-a", "end", 1);
    await watching.inbox.next("end");
    assert.deepEqual(errors.items, []);
  });
}

test("nobody is watched in an app without watchlist events", async (t) => {
  const there = await world.beside(t, QUIET);
  await signedIn(await there.connected(t, { as: "off-b" }));
  const watching = await watcher(t, "off-a", ["off-b", "off-c"], { there });
  await signedIn(await there.connected(t, { as: "off-c" }));
  watching.inbox.bind(watching.client.user, "end");
  await there.api.sendToUser("off-a", "end", 1);
  await watching.inbox.next("end");
});

test("users of another app are not watched", async (t) => {
  const there = await world.beside(t, QUIET);
  await signedIn(await there.connected(t, { as: "apart-b" }));
  const watching = await watcher(t, "apart-a", ["apart-b"]);
  assert.deepEqual(await heard(watching), offline("apart-b"));
});

test("after a reconnect the state is told anew", async (t) => {
  const [first, second] = await Promise.all([Fanfare.start(), Fanfare.start()]);
  t.after(() => second.stop());
  const entrance = await Entrance.open(first);
  t.after(() => entrance.close());
  const through = { wsHost: entrance.host, wsPort: entrance.port };
  // Not through the entrance: it does not find the second server.
  await user(t, "again-b", { wsHost: first.host, wsPort: first.port });
  const watching = await watcher(t, "again-a", ["again-b", "again-c"], through);
  assert.deepEqual(await heard(watching), online("again-b"));
  assert.deepEqual(await heard(watching), offline("again-c"));

  entrance.lead(second);
  await first.stop();
  assert.deepEqual(await heard(watching), offline("again-b", "again-c"));
  await user(t, "again-b", through);
  assert.deepEqual(await heard(watching), online("again-b"));
});
