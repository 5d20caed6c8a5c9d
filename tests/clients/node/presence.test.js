// Presence channels: who is there, who comes and who goes.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Inbox } from "./support/wait.js";
import { World, settled, subscribed } from "./support/world.js";

let world;
before(async () => {
  world = await World.start();
});
after(() => world.stop());

const ADA = { name: "Ada Lovelace" };
const BOB = { name: "Bob 🎺 Müller" };
const COMINGS = ["pusher:member_added", "pusher:member_removed", "end"];

/** The members as plain data. */
function roll({ count, members, myID, me }) {
  return { count, members: { ...members }, myID, me };
}

for (const auth of ["/with-user/auth", "/broadcasting/auth"]) {
  test(`the first member finds itself (${auth})`, async (t) => {
    const client = await world.connected(t, { auth });
    const channel = await subscribed(client, "presence-first");
    assert.deepEqual(roll(channel.members), {
      count: 1,
      members: { ada: ADA },
      myID: "ada",
      me: { id: "ada", info: ADA },
    });
  });
}

test("members see each other come and go", async (t) => {
  const ada = await world.connected(t);
  const channel = await subscribed(ada, "presence-room");
  const inbox = new Inbox().bind(channel, ...COMINGS);

  const bob = await world.connected(t, { as: "bob" });
  const theirs = await subscribed(bob, "presence-room");
  const own = new Inbox().bind(theirs, ...COMINGS);
  assert.deepEqual(roll(theirs.members), {
    count: 2,
    members: { ada: ADA, bob: BOB },
    myID: "bob",
    me: { id: "bob", info: BOB },
  });
  assert.deepEqual((await inbox.next("pusher:member_added")).data, { id: "bob", info: BOB });
  assert.equal(channel.members.count, 2);

  await world.api.trigger("presence-room", "end", 1);
  await own.next("end");
  await inbox.next("end");

  bob.unsubscribe("presence-room");
  assert.deepEqual((await inbox.next("pusher:member_removed")).data, { id: "bob", info: BOB });
  assert.deepEqual(roll(channel.members).members, { ada: ADA });

  await subscribed(bob, "presence-room");
  assert.equal((await inbox.next("pusher:member_added")).data.id, "bob");
  bob.disconnect();
  assert.equal((await inbox.next("pusher:member_removed")).data.id, "bob");
});

test("two tabs of one user are one member", async (t) => {
  const watcher = await world.connected(t, { as: "bob" });
  const channel = await subscribed(watcher, "presence-tabs");
  const inbox = new Inbox().bind(channel, ...COMINGS);

  const first = await world.connected(t);
  const second = await world.connected(t);
  assert.equal((await subscribed(first, "presence-tabs")).members.count, 2);
  assert.equal((await subscribed(second, "presence-tabs")).members.count, 2);
  assert.equal((await inbox.next("pusher:member_added")).data.id, "ada");

  first.unsubscribe("presence-tabs");
  await settled(first);
  await world.api.trigger("presence-tabs", "end", 1);
  await inbox.next("end");
  assert.equal(channel.members.count, 2);

  second.unsubscribe("presence-tabs");
  assert.equal((await inbox.next("pusher:member_removed")).data.id, "ada");
  await world.api.trigger("presence-tabs", "end", 2);
  await inbox.next("end");
  assert.equal(channel.members.count, 1);
});

test("a number for a user id works like its text", async (t) => {
  const watcher = await world.connected(t);
  const inbox = new Inbox().bind(await subscribed(watcher, "presence-numbers"), ...COMINGS);
  const ten = await world.connected(t, { as: "ten" });
  const channel = await subscribed(ten, "presence-numbers");
  assert.deepEqual(Object.keys(channel.members.members).sort(), ["10", "ada"]);
  assert.deepEqual(channel.members.me, { id: 10, info: { name: "Number Ten" } });
  assert.deepEqual((await inbox.next("pusher:member_added")).data, { id: "10", info: { name: "Number Ten" } });
  const { users } = await world.get("/channels/presence-numbers/users");
  assert.deepEqual(users.map(({ id }) => id).sort(), ["10", "ada"]);
});

test("user_info may be left out", async (t) => {
  const watcher = await world.connected(t);
  const channel = await subscribed(watcher, "presence-ghosts");
  const inbox = new Inbox().bind(channel, ...COMINGS);
  const ghost = await world.connected(t, { as: "ghost" });
  const theirs = await subscribed(ghost, "presence-ghosts");
  assert.equal(theirs.members.count, 2);
  assert.ok("ghost" in theirs.members.members);
  assert.equal((await inbox.next("pusher:member_added")).data.id, "ghost");
});

test("an ordinary event on a presence channel carries no user", async (t) => {
  const client = await world.connected(t);
  const inbox = new Inbox().bind(await subscribed(client, "presence-plain"), "hello");
  await world.api.trigger("presence-plain", "hello", { by: "the server" });
  assert.deepEqual((await inbox.next("hello")).metadata, {});
});

for (const [why, auth, as] of [
  ["an empty user id", "/with-user/auth", "nameless"],
  ["an object for a user id", "/with-user/auth", "nested"],
  ["another user than the one signed", "/tampered/auth", "ada"],
  ["another secret", "/wrong-secret/auth", "ada"],
]) {
  test(`${why} is refused and nobody hears of it`, async (t) => {
    const watcher = await world.connected(t, { as: "bob" });
    const channel = await subscribed(watcher, "presence-guarded");
    const inbox = new Inbox().bind(channel, ...COMINGS);
    const client = await world.connected(t, { auth, as });
    const errors = new Inbox().bind(client.connection, "error");
    const refusals = new Inbox().bind(client.subscribe("presence-guarded"), "pusher:subscription_error");
    await refusals.next("pusher:subscription_error");
    assert.equal((await errors.next("error")).data.data.code, null);
    await settled(client);
    await world.api.trigger("presence-guarded", "end", 1);
    await inbox.next("end");
    assert.equal(channel.members.count, 1);
  });
}

test("presence without channel_data and without sign-in is refused by the server too", async (t) => {
  const client = await world.connected(t);
  const { auth } = world.api.authorizeChannel(client.connection.socket_id, "presence-anonymous");
  const errors = new Inbox().bind(client.connection, "error");
  client.connection.send_event("pusher:subscribe", { channel: "presence-anonymous", auth });
  assert.equal((await errors.next("error")).data.data.code, null);
});
