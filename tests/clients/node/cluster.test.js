// Three nodes that Redis joins are one broker for pusher-js, Echo and the server SDK. Backends ask
// node A, clients are on B and C, unless a test says otherwise.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import axios from "axios";

import { Cluster } from "./support/cluster.js";
import { hear, joined, openEcho } from "./support/echo.js";
import { Entrance } from "./support/entrance.js";
import { APP, COUNTED, WATCHED } from "./support/fanfare.js";
import { Inbox } from "./support/wait.js";
import { at, refusal, settled, signedIn, subscribed, terminated } from "./support/world.js";

/** Longer than pusher-js takes to come back, and no longer than the test that waits for it has to. */
const LEASE = { FANFARE_CLUSTER__LEASE: "12s" };
/** How long it may take until the others miss a node that has died. */
const MISSED = 60_000;

let cluster, a, b, c;
before(async () => {
  cluster = await Cluster.start();
  [a, b, c] = cluster.nodes;
});
after(() => cluster.stop());

const ADA = { name: "Ada Lovelace" };
const BOB = { name: "Bob 🎺 Müller" };
const COMINGS = ["pusher:member_added", "pusher:member_removed", "end"];

/** A client on a node, and what it hears in one channel from the moment it is in. */
async function listener(t, node, name, events, options) {
  const client = await node.connected(t, options);
  const channel = await subscribed(client, name);
  return { client, channel, inbox: new Inbox().bind(channel, ...events) };
}

/** All of them hear an event that was published after all that they were not to hear. */
async function end(api, name, ...listeners) {
  await api.trigger(name, "end", 1);
  for (const { inbox } of listeners) await inbox.next("end");
}

const people = ({ members: { members } }) => Object.keys(members).sort();

test("what is published at one node arrives at every node, once and in order", async (t) => {
  const all = await Promise.all([a, b, b, c].map((node) => listener(t, node, "news", ["count", "end"])));
  for (let n = 0; n < 10; n++) await a.api.trigger("news", "count", { n, text: "für 🎺" });
  const batch = [10, 11, 12].map((n) => ({ channel: "news", name: "count", data: { n, text: "für 🎺" } }));
  await a.api.triggerBatch(batch);
  for (const { inbox } of all) {
    const heard = (await inbox.take(13)).map(({ data }) => data);
    assert.deepEqual(heard, Array.from({ length: 13 }, (_, n) => ({ n, text: "für 🎺" })));
  }
  await end(a.api, "news", ...all);
});

test("one event for several channels whose subscribers are on different nodes", async (t) => {
  const one = await listener(t, b, "several-1", ["hello"]);
  const two = await listener(t, c, "several-2", ["hello"]);
  await a.api.trigger(["several-1", "several-2", "several-3"], "hello", "both");
  for (const { inbox } of [one, two]) assert.equal((await inbox.next("hello")).data, "both");
});

test("a socket is excluded wherever it is", async (t) => {
  const author = await listener(t, b, "excluded", ["hello", "end"]);
  const others = await Promise.all([a, b, c].map((node) => listener(t, node, "excluded", ["hello", "end"])));
  await a.api.trigger("excluded", "hello", 1, { socket_id: author.client.connection.socket_id });
  for (const { inbox } of others) assert.equal((await inbox.next("hello")).data, 1);
  await end(a.api, "excluded", author, ...others);
});

test("client events cross nodes both ways and never come back", async (t) => {
  const one = await listener(t, b, "presence-talk", ["client-said", "end"]);
  const two = await listener(t, c, "presence-talk", ["client-said", "end"], { as: "bob" });
  assert.equal(one.channel.trigger("client-said", { text: "hello, 🎺" }), true);
  const heard = await two.inbox.next("client-said");
  assert.deepEqual([heard.data, heard.metadata], [{ text: "hello, 🎺" }, { user_id: "ada" }]);
  two.channel.trigger("client-said", "hi");
  assert.deepEqual((await one.inbox.next("client-said")).metadata, { user_id: "bob" });
  await Promise.all([settled(one.client), settled(two.client)]);
  await end(a.api, "presence-talk", one, two);
});

test("members on all nodes see each other, and see them come and go", async (t) => {
  const ada = await listener(t, a, "presence-room", COMINGS);
  const bob = await listener(t, b, "presence-room", COMINGS, { as: "bob" });
  assert.equal(bob.channel.members.count, 2);
  assert.deepEqual(bob.channel.members.me, { id: "bob", info: BOB });
  const cyd = await listener(t, c, "presence-room", COMINGS, { as: "cyd" });
  assert.deepEqual(cyd.channel.members.get("ada"), { id: "ada", info: ADA });
  assert.deepEqual((await ada.inbox.next("pusher:member_added")).data, { id: "bob", info: BOB });
  for (const { inbox } of [ada, bob]) assert.equal((await inbox.next("pusher:member_added")).data.id, "cyd");
  for (const { channel } of [ada, bob, cyd]) {
    assert.deepEqual([channel.members.count, people(channel)], [3, ["ada", "bob", "cyd"]]);
  }

  bob.client.disconnect();
  for (const { inbox, channel } of [ada, cyd]) {
    assert.deepEqual((await inbox.next("pusher:member_removed")).data, { id: "bob", info: BOB });
    assert.deepEqual([channel.members.count, people(channel)], [2, ["ada", "cyd"]]);
  }
  await end(b.api, "presence-room", ada, cyd);
});

test("tabs of one user on two nodes are one member", async (t) => {
  const bob = await listener(t, a, "presence-tabs", COMINGS, { as: "bob" });
  const one = await listener(t, b, "presence-tabs", COMINGS);
  assert.equal((await bob.inbox.next("pusher:member_added")).data.id, "ada");
  const two = await listener(t, c, "presence-tabs", COMINGS);
  assert.equal(two.channel.members.count, 2);
  one.client.unsubscribe("presence-tabs");
  await settled(one.client);
  await end(b.api, "presence-tabs", bob, two);
  two.client.disconnect();
  assert.equal((await bob.inbox.next("pusher:member_removed")).data.id, "ada");
  await end(c.api, "presence-tabs", bob);
  assert.deepEqual(people(bob.channel), ["bob"]);
});

test("a node without subscribers answers for the whole cluster", async (t) => {
  const there = [[b, "ada"], [c, "ada"], [c, "bob"]];
  for (const [node, as] of there) await subscribed(await node.connected(t, { as }), "presence-asked");
  assert.deepEqual(
    await a.get("/channels/presence-asked", { info: "user_count" }),
    { occupied: true, user_count: 2 },
  );
  assert.deepEqual(
    await a.get("/channels", { filter_by_prefix: "presence-asked", info: "user_count" }),
    { channels: { "presence-asked": { user_count: 2 } } },
  );
  const { users } = await a.get("/channels/presence-asked/users");
  assert.deepEqual(users.map(({ id }) => id).sort(), ["ada", "bob"]);
  const answer = await a.api.trigger("presence-asked", "hello", 1, { info: "user_count" });
  assert.deepEqual(await answer.json(), { channels: { "presence-asked": { user_count: 2 } } });
  assert.deepEqual(await a.get("/channels/presence-never"), { occupied: false });
});

test("subscribers on all nodes are counted together", async (t) => {
  const COUNT = "pusher:subscription_count";
  const all = [];
  for (const node of await cluster.beside(t, COUNTED)) {
    const inbox = new Inbox().bind((await node.connected(t)).subscribe("counted"), COUNT);
    all.push({ node, inbox });
    for (const each of all) assert.equal((await each.inbox.next(COUNT)).data.subscription_count, all.length);
  }
  for (const { node } of all) {
    const { subscription_count } = await node.get("/channels/counted", { info: "subscription_count" });
    assert.equal(subscription_count, 3);
  }
});

test("sendToUser reaches a user's connections on all nodes and nobody else", async (t) => {
  const sent = (client) => new Inbox().bind(client.user, "mail", "end");
  const adas = await Promise.all([b, b, c].map(async (node) => sent(await signedIn(await node.connected(t)))));
  const bob = sent(await signedIn(await c.connected(t, { as: "bob" })));
  await a.api.sendToUser("ada", "mail", { unread: 1 });
  for (const user of ["ada", "bob"]) await a.api.sendToUser(user, "end", 1);
  for (const inbox of adas) {
    assert.deepEqual((await inbox.next("mail")).data, { unread: 1 });
    await inbox.next("end");
  }
  await bob.next("end");
});

test("terminateUserConnections ends a user's connections on all nodes and no others", async (t) => {
  const clients = await Promise.all([b, c].map(async (node) => signedIn(await node.connected(t))));
  const bob = await signedIn(await b.connected(t, { as: "bob" }));
  const errors = clients.map((client) => new Inbox().bind(client.connection, "error"));
  const retries = new Inbox().bind(clients[0].connection, "connecting_in");
  await a.api.terminateUserConnections("ada");
  for (const [n, client] of clients.entries()) await terminated(client, errors[n]);
  assert.deepEqual(retries.items, []);
  await settled(bob);
  assert.equal(bob.connection.state, "connected");
});

test("those who watch a user hear of it across nodes", async (t) => {
  const [, at_b, at_c] = await cluster.beside(t, WATCHED);
  at_b.backend.friends.ada = ["bob", "cyd"];
  await signedIn(await at_c.connected(t, { as: "cyd" }));
  const client = await at_b.connected(t);
  const inbox = new Inbox().bind(client.user.watchlist, "online", "offline");
  await signedIn(client);
  assert.deepEqual((await inbox.next("online")).data.user_ids, ["cyd"]);
  assert.deepEqual((await inbox.next("offline")).data.user_ids, ["bob"]);
  const bob = await signedIn(await at_c.connected(t, { as: "bob" }));
  assert.deepEqual((await inbox.next("online")).data.user_ids, ["bob"]);
  bob.disconnect();
  assert.deepEqual((await inbox.next("offline")).data.user_ids, ["bob"]);
});

for (const kind of ["cache-", "private-cache-", "presence-cache-", "private-encrypted-cache-"]) {
  test(`${kind}: the last event is found on other nodes than it was published on`, async (t) => {
    const join = async (node, name) => new Inbox().bind(
      (await node.connected(t)).subscribe(name), "pusher:subscription_succeeded", "pusher:cache_miss", "score",
    );
    await a.api.trigger(`${kind}scores`, "score", { home: 1 });
    await a.api.trigger(`${kind}scores`, "score", { home: 2, cheer: "🎺" });
    for (const node of [c, b]) {
      const inbox = await join(node, `${kind}scores`);
      await inbox.next("pusher:subscription_succeeded");
      assert.deepEqual((await inbox.next("score")).data, { home: 2, cheer: "🎺" });
    }
    const inbox = await join(c, `${kind}nothing`);
    await inbox.next("pusher:subscription_succeeded");
    await inbox.next("pusher:cache_miss");
  });
}

test("encrypted events cross nodes unread", async (t) => {
  const { client, inbox } = await listener(t, b, "private-encrypted-bank", ["paid"]);
  const frames = new Inbox();
  client.connection.bind("message", (frame) => frame.event === "paid" && frames.put({ name: "paid", data: frame.data }));
  await a.api.trigger("private-encrypted-bank", "paid", { card: "4000 0000" });
  assert.deepEqual((await inbox.next("paid")).data, { card: "4000 0000" });
  assert.deepEqual(Object.keys((await frames.next("paid")).data).sort(), ["ciphertext", "nonce"]);
});

for (const transport of ["xhr_streaming", "xhr_polling"]) {
  test(`a client by ${transport} hears and is heard on other nodes`, async (t) => {
    const name = `presence-${transport}`;
    const near = await listener(t, b, name, ["hello", "client-said"], { enabledTransports: [transport] });
    const far = await listener(t, c, name, ["client-said"], { as: "bob" });
    assert.deepEqual(people(far.channel), ["ada", "bob"]);
    await a.api.trigger(name, "hello", "by other means");
    assert.equal((await near.inbox.next("hello")).data, "by other means");
    near.channel.trigger("client-said", 1);
    assert.equal((await far.inbox.next("client-said")).data, 1);
    far.channel.trigger("client-said", 2);
    assert.equal((await near.inbox.next("client-said")).data, 2);
  });
}

test("Echo: here, joining, whisper and leaving", async (t) => {
  const ada = await openEcho(t, b);
  const adas = ada.join("echo");
  const inbox = hear(new Inbox(), adas, [["here"], ["joining"], ["listenForWhisper", "typing"], ["leaving"]]);
  assert.deepEqual((await inbox.next("here")).data, [ADA]);
  const bob = await openEcho(t, c, { as: "bob" });
  const bobs = bob.join("echo");
  const here = (await hear(new Inbox(), bobs, [["here"]]).next("here")).data;
  assert.deepEqual(here.map(({ name }) => name).sort(), [ADA.name, BOB.name]);
  assert.deepEqual((await inbox.next("joining")).data, BOB);
  bobs.whisper("typing", { name: "Bob" });
  assert.deepEqual((await inbox.next("typing")).data, { name: "Bob" });
  bob.leave("echo");
  assert.deepEqual((await inbox.next("leaving")).data, BOB);
});

test("Echo: toOthers keeps a broadcast from its author on another node", async (t) => {
  globalThis.axios = axios;
  t.after(() => {
    delete globalThis.axios;
    axios.interceptors.request.clear();
  });
  const EVENTS = [["listen", "Posted"], ["listen", ".end"]];
  const author = await joined((await openEcho(t, b, { withoutInterceptors: false })).channel("posts"));
  const reader = await joined((await openEcho(t, c, { as: "bob" })).channel("posts"));
  const [mine, theirs] = [author, reader].map((channel) => hear(new Inbox(), channel, EVENTS));
  const post = { channel: "posts", event: "App\\Events\\Posted", data: { id: 1 } };
  await axios.post(`${a.backend.url}/messages`, post);
  await a.api.trigger("posts", "end", 1);
  assert.deepEqual((await theirs.next("Posted")).data, { id: 1 });
  for (const inbox of [theirs, mine]) await inbox.next(".end");
});

for (const [what, auth] of [
  ["another secret", "/wrong-secret/auth"],
  ["another socket", "/wrong-socket/auth"],
  ["another user", "/tampered/auth"],
]) {
  test(`who is signed for ${what} at one node disturbs nobody at another`, async (t) => {
    const name = "presence-guarded";
    const bob = await listener(t, c, name, [...COMINGS, "client-said"], { as: "bob" });
    const client = await b.connected(t, { auth });
    const channel = client.subscribe(name);
    const inbox = new Inbox().bind(channel, "pusher:subscription_error", "pusher:subscription_succeeded", "end");
    await inbox.next("pusher:subscription_error");
    client.connection.send_event("client-said", "from outside", name);
    for (const frame of ["not json", '{"event":"pusher:subscribe"}', '{"event":"pusher_internal:member_removed"}']) {
      client.connection.send(frame);
    }
    await settled(client);
    // By the node that refused it: whatever it told before comes before this.
    await end(b.api, name, bob);
    assert.deepEqual(people(bob.channel), ["bob"]);
    assert.deepEqual(await a.get(`/channels/${name}`, { info: "user_count" }), { occupied: true, user_count: 1 });
    await settled(client);
    assert.deepEqual(inbox.items, []);
  });
}

test("what is wrongly signed at one node reaches nobody at any", async (t) => {
  const all = await Promise.all([a, b, c].map((node) => listener(t, node, "signed", ["hello", "end"])));
  const users = await Promise.all([b, c].map(async (node) => signedIn(await node.connected(t, { as: "dan" }))));
  const mails = users.map((client) => ({ inbox: new Inbox().bind(client.user, "hello", "end") }));
  for (const stranger of [a.sdk({ ...APP, secret: "guessed" }), a.sdk({ ...APP, key: "nobody" })]) {
    const calls = [
      stranger.trigger("signed", "hello", 1),
      stranger.triggerBatch([{ channel: "signed", name: "hello", data: 1 }]),
      stranger.sendToUser("dan", "hello", 1),
      stranger.terminateUserConnections("dan"),
      stranger.get({ path: "/channels/signed" }),
    ];
    // All at once: one that is refused before anybody waits for it would end the test by itself.
    for (const error of await Promise.all(calls.map(refusal))) assert.equal(error.status, 401);
  }
  await end(a.api, "signed", ...all);
  await a.api.sendToUser("dan", "end", 1);
  for (const { inbox } of mails) await inbox.next("end");
});

test("a node dies: who was there leaves once, who comes back was never away", async (t) => {
  const mortal = await Cluster.start({ env: LEASE });
  t.after(() => mortal.stop());
  const [dying, ...living] = mortal.nodes;
  const way = await Entrance.open(dying.server);
  t.after(() => way.close());
  const watchers = await Promise.all(living.map((node, n) => (
    listener(t, node, "presence-dying", COMINGS, { as: `watcher-${n}` })
  )));
  const ada = await listener(t, dying, "presence-dying", ["hello", "pusher:subscription_succeeded"], at(way));
  const ghost = await listener(t, dying, "presence-dying", COMINGS, { as: "ghost" });
  const there = ["ada", "ghost", "watcher-0", "watcher-1"];
  for (const { channel, inbox } of watchers) {
    // The other watcher may have come before or after this one.
    while (people(channel).length < there.length) await inbox.next("pusher:member_added");
    assert.deepEqual(people(channel), there);
    inbox.items.length = 0;
  }
  const socket = ada.client.connection.socket_id;

  way.lead(living[0].server);
  await mortal.kill(dying);
  ghost.client.disconnect();
  await ada.inbox.next("pusher:subscription_succeeded");
  assert.notEqual(ada.client.connection.socket_id, socket);
  assert.equal(ada.channel.members.myID, "ada");
  for (const { inbox } of watchers) {
    assert.equal((await inbox.next("pusher:member_removed", MISSED)).data.id, "ghost");
  }
  for (const node of living) await end(node.api, "presence-dying", ...watchers);
  await living[1].api.trigger("presence-dying", "hello", "you are back");
  assert.equal((await ada.inbox.next("hello")).data, "you are back");
  for (const node of living) {
    const { users } = await node.get("/channels/presence-dying/users");
    assert.deepEqual(users.map(({ id }) => id).sort(), ["ada", "watcher-0", "watcher-1"]);
  }
});

test("a node is stopped: its clients are sent on and are the same members", async (t) => {
  const brief = await Cluster.start();
  t.after(() => brief.stop());
  const [leaving, , staying] = brief.nodes;
  const way = await Entrance.open(leaving.server);
  t.after(() => way.close());
  const ada = await listener(t, leaving, "presence-moving", ["hello", "pusher:subscription_succeeded"], at(way));
  const errors = new Inbox().bind(ada.client.connection, "error");
  const bob = await listener(t, staying, "presence-moving", [], { as: "bob" });
  way.lead(staying.server);
  await brief.drain(leaving);
  assert.equal((await errors.next("error")).data.data.code, 4200);
  await ada.inbox.next("pusher:subscription_succeeded");
  await settled(bob.client);
  assert.deepEqual([people(ada.channel), people(bob.channel)], [["ada", "bob"], ["ada", "bob"]]);
  await brief.nodes[1].api.trigger("presence-moving", "hello", "from the other node");
  await ada.inbox.next("hello");
});
