// Laravel Echo 2.5.0 over pusher-js, with a backend that does what Laravel does.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import axios from "axios";
import Echo from "laravel-echo";
import Pusher from "pusher-js";

import { hear, joined, openEcho } from "./support/echo.js";
import { Inbox } from "./support/wait.js";
import { World, settled, signedIn } from "./support/world.js";

let world;
before(async () => {
  world = await World.start();
});
after(() => world.stop());

const echo = (t, options) => openEcho(t, world, options);

for (const broadcaster of ["pusher", "reverb"]) {
  test(`channel().listen through the ${broadcaster} broadcaster`, async (t) => {
    const browser = await echo(t, { broadcaster });
    const channel = await joined(browser.channel("orders"));
    const inbox = hear(new Inbox(), channel, [["listen", "OrderShipped"], ["listen", ".custom.name"]]);
    await world.api.trigger("orders", "App\\Events\\OrderShipped", { id: 1, to: "Zürich" });
    assert.deepEqual((await inbox.next("OrderShipped")).data, { id: 1, to: "Zürich" });
    await world.api.trigger("orders", "custom.name", { id: 2 });
    assert.deepEqual((await inbox.next(".custom.name")).data, { id: 2 });
    assert.equal(browser.connectionStatus(), "connected");
    assert.match(browser.socketId(), /^\d+\.\d+$/);
  });
}

test("listenToAll tells namespaced events from others", async (t) => {
  const browser = await echo(t);
  const channel = await joined(browser.channel("everything"));
  const inbox = new Inbox();
  channel.listenToAll((name, data) => inbox.put({ name, data }));
  await world.api.trigger("everything", "App\\Events\\OrderShipped", 1);
  await world.api.trigger("everything", "other", 2);
  assert.deepEqual(await inbox.take(2), [{ name: "OrderShipped", data: 1 }, { name: ".other", data: 2 }]);
});

for (const authEndpoint of ["/broadcasting/auth", "/with-user/auth"]) {
  test(`private().listen and notification (${authEndpoint})`, async (t) => {
    const browser = await echo(t, { authEndpoint });
    const channel = await joined(browser.private("App.Models.User.1"));
    const inbox = hear(new Inbox(), channel, [["listen", "OrderShipped"], ["notification"]]);
    await world.api.trigger("private-App.Models.User.1", "App\\Events\\OrderShipped", { id: 1 });
    assert.deepEqual((await inbox.next("OrderShipped")).data, { id: 1 });
    await world.api.trigger(
      "private-App.Models.User.1",
      "Illuminate\\Notifications\\Events\\BroadcastNotificationCreated",
      { type: "invoice" },
    );
    assert.deepEqual((await inbox.next("notification")).data, { type: "invoice" });
  });
}

test("a refused private channel reaches error()", async (t) => {
  for (const [authEndpoint, status] of [["/wrong-secret/auth", 401], ["/no-such-route", 403]]) {
    const browser = await echo(t, { authEndpoint });
    const inbox = hear(new Inbox(), browser.private("secrets"), [["subscribed"], ["error"]]);
    const { data } = await inbox.next("error");
    assert.equal(data.type, "AuthError");
    assert.equal(data.status, status);
    assert.ok(data.error.length > 0);
  }
});

test("a refused presence channel reaches error()", async (t) => {
  const browser = await echo(t, { authEndpoint: "/tampered/auth" });
  const inbox = hear(new Inbox(), browser.join("secrets"), [["here"], ["error"]]);
  assert.equal((await inbox.next("error")).data.type, "AuthError");
});

test("join().here, joining and leaving", async (t) => {
  const ada = await echo(t);
  const room = ada.join("room");
  const inbox = hear(new Inbox(), room, [["here"], ["joining"], ["leaving"]]);
  assert.deepEqual((await inbox.next("here")).data, [{ name: "Ada Lovelace" }]);

  const bob = await echo(t, { as: "bob" });
  const theirs = hear(new Inbox(), bob.join("room"), [["here"], ["joining"]]);
  const here = (await theirs.next("here")).data;
  assert.deepEqual(here.map(({ name }) => name).sort(), ["Ada Lovelace", "Bob 🎺 Müller"]);
  assert.deepEqual((await inbox.next("joining")).data, { name: "Bob 🎺 Müller" });

  bob.leave("room");
  assert.deepEqual((await inbox.next("leaving")).data, { name: "Bob 🎺 Müller" });
  await settled(bob.connector.pusher);
  assert.deepEqual(theirs.items, []);
});

test("an integer user id, as getAuthIdentifier gives, is somebody", async (t) => {
  const ada = await echo(t);
  const inbox = hear(new Inbox(), ada.join("numbers"), [["here"], ["joining"], ["leaving"]]);
  await inbox.next("here");
  const ten = await echo(t, { as: "ten" });
  await joined(ten.join("numbers"));
  assert.deepEqual((await inbox.next("joining")).data, { name: "Number Ten" });
  ten.disconnect();
  assert.deepEqual((await inbox.next("leaving")).data, { name: "Number Ten" });
});

for (const kind of ["private", "join"]) {
  test(`${kind}().whisper is heard by the others`, async (t) => {
    const ada = await echo(t);
    const bob = await echo(t, { as: "bob" });
    const [adas, bobs] = [await joined(ada[kind]("whispers")), await joined(bob[kind]("whispers"))];
    const atAda = hear(new Inbox(), adas, [["listenForWhisper", "typing"]]);
    const atBob = hear(new Inbox(), bobs, [["listenForWhisper", "typing"]]);
    adas.whisper("typing", { name: "Ada" });
    assert.deepEqual((await atBob.next("typing")).data, { name: "Ada" });
    bobs.whisper("typing", { name: "Bob" });
    assert.deepEqual((await atAda.next("typing")).data, { name: "Bob" });
    await settled(ada.connector.pusher);
    await settled(bob.connector.pusher);
    assert.deepEqual([...atAda.items, ...atBob.items], []);
  });
}

test("encryptedPrivate().listen decrypts", async (t) => {
  const browser = await echo(t);
  const channel = await joined(browser.encryptedPrivate("vault"));
  const inbox = hear(new Inbox(), channel, [["listen", "Opened"]]);
  await world.api.trigger("private-encrypted-vault", "App\\Events\\Opened", { by: "Ada 🎺" });
  assert.deepEqual((await inbox.next("Opened")).data, { by: "Ada 🎺" });
});

test("toOthers: Echo's X-Socket-ID keeps a broadcast from its author", async (t) => {
  globalThis.axios = axios;
  t.after(() => {
    delete globalThis.axios;
    axios.interceptors.request.clear();
  });
  const author = await echo(t, { withoutInterceptors: false });
  const reader = await echo(t, { as: "bob" });
  const mine = hear(new Inbox(), await joined(author.channel("posts")), [["listen", "Posted"], ["listen", ".end"]]);
  const theirs = hear(new Inbox(), await joined(reader.channel("posts")), [["listen", "Posted"], ["listen", ".end"]]);

  await axios.post(`${world.backend.url}/messages`, {
    channel: "posts", event: "App\\Events\\Posted", data: { id: 1 },
  });
  await world.api.trigger("posts", "end", 1);
  assert.deepEqual((await theirs.next("Posted")).data, { id: 1 });
  await theirs.next(".end");
  await mine.next(".end");
});

test("signin: the user hears what is sent to it and joins channels as itself", async (t) => {
  const browser = await echo(t, { authEndpoint: "/plain/auth" });
  browser.connector.signin();
  await signedIn(browser.connector.pusher);
  const inbox = new Inbox().bind(browser.connector.pusher.user, "invoice");
  await world.api.sendToUser("ada", "invoice", { id: 1 });
  assert.deepEqual((await inbox.next("invoice")).data, { id: 1 });
  const here = hear(new Inbox(), browser.join("signed-in"), [["here"], ["error"]]);
  assert.deepEqual((await here.next("here")).data, [{ name: "Ada Lovelace" }]);

  const end = new Inbox().bind(browser.connector.pusher.connection, "disconnected");
  await world.api.terminateUserConnections("ada");
  await end.next("disconnected");
  assert.equal(browser.connectionStatus(), "disconnected");
});

test("signin with another secret is refused and the rest of Echo works", async (t) => {
  const browser = await echo(t, { userAuth: "/wrong-secret/user-auth" });
  const errors = new Inbox().bind(browser.connector.pusher.connection, "error");
  browser.connector.signin();
  assert.match((await errors.next("error")).data.data.message, /Invalid signature/);
  await joined(browser.private("after-all"));
  assert.equal(browser.connectionStatus(), "connected");
});

test("leaving a channel and listening anew", async (t) => {
  const browser = await echo(t);
  await joined(browser.channel("again"));
  browser.leaveChannel("again");
  await settled(browser.connector.pusher);
  assert.deepEqual(await world.get("/channels/again"), { occupied: false });
  const inbox = hear(new Inbox(), await joined(browser.channel("again")), [["listen", ".hello"]]);
  await world.api.trigger("again", "hello", 1);
  await inbox.next(".hello");
});

test("an unknown key shows as disconnected", async (t) => {
  const browser = new Echo({
    broadcaster: "pusher", Pusher, key: "no-such-key", cluster: "", wsHost: world.server.host,
    wsPort: world.server.port, forceTLS: false, enabledTransports: ["ws"], withoutInterceptors: true,
  });
  t.after(() => browser.disconnect());
  const inbox = new Inbox().bind(browser.connector.pusher.connection, "error", "disconnected");
  assert.equal((await inbox.next("error")).data.error.data.code, 4001);
  await inbox.next("disconnected");
  assert.equal(browser.connectionStatus(), "disconnected");
});
