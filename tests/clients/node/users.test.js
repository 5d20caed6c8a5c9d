// Signing in with pusher-js, and what a backend can do for or to a signed-in user.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Entrance } from "./support/entrance.js";
import { APP, Fanfare, QUIET } from "./support/fanfare.js";
import { Inbox, within, DEADLINE } from "./support/wait.js";
import { World, connected, refusal, settled, signedIn, subscribed, terminated } from "./support/world.js";

let world;
before(async () => {
  world = await World.start();
});
after(() => world.stop());

const ADA = { name: "Ada Lovelace" };
const BOB = { name: "Bob 🎺 Müller" };
/** All the characters that an id may have. */
const ODD = "aZ09_-=@,.;";

/** What a backend answers that signs whatever it is given. */
function careless(client, user_data) {
  const { token } = world.api.config;
  return { auth: `${token.key}:${token.sign(`${client.connection.socket_id}::user::${user_data}`)}`, user_data };
}

/** Sends a sign-in that pusher-js or the server SDK would not, and returns the server's error. */
async function refused(client, errors, data) {
  client.connection.send_event("pusher:signin", data);
  const { data: error } = await errors.next("error");
  assert.equal(error.type, "PusherError");
  assert.equal(error.data.code, null);
  return error.data.message;
}

/** All that a client hears but for the protocol's own events. */
function heard(client) {
  const inbox = new Inbox();
  client.bind_global((name, data) => name.startsWith("pusher:") || inbox.put({ name, data }));
  return inbox;
}

for (const app of [APP, QUIET]) {
  test(`signin works without any feature switched on for it (${app.key})`, async (t) => {
    const there = await world.beside(t, app);
    const client = await there.connected(t);
    const errors = new Inbox().bind(client.connection, "error");
    await signedIn(client);
    assert.deepEqual(client.user.user_data, { id: "ada", user_info: ADA });
    await settled(client);
    // The client has subscribed to its user's channel by now.
    assert.equal(client.user.serverToUserChannel.subscribed, true);
    assert.deepEqual(errors.items, []);

    const inbox = new Inbox().bind(client.user, "hello");
    await there.api.sendToUser("ada", "hello", { to: "Ada" });
    assert.deepEqual((await inbox.next("hello")).data, { to: "Ada" });
  });
}

test("signin may be called before there is a connection, and twice", async (t) => {
  const client = world.client(t, { as: "bob" });
  client.signin();
  assert.equal(client.connection.state, "connecting");
  await signedIn(client);
  assert.deepEqual(client.user.user_data, { id: "bob", user_info: BOB });
});

test("sendToUser reaches each connection of the user once and nobody else (conformance case 166)", async (t) => {
  const clients = await Promise.all(["ada", "ada", "bob"].map((as) => world.connected(t, { as })));
  await Promise.all(clients.map((client) => signedIn(client)));
  const stranger = await world.connected(t);
  const strays = heard(stranger);
  const [one, two, bob] = clients.map((client) => new Inbox().bind(client.user, "hello", "end"));

  const response = await world.api.sendToUser("ada", "hello", { text: "für 🎺" });
  assert.equal(response.status, 200);
  assert.equal(await response.text(), "{}");
  for (const user of ["ada", "bob"]) await world.api.sendToUser(user, "end", "plain text");
  for (const inbox of [one, two]) {
    assert.deepEqual((await inbox.next("hello")).data, { text: "für 🎺" });
    assert.equal((await inbox.next("end")).data, "plain text");
  }
  await bob.next("end");
  await settled(stranger);
  assert.deepEqual(strays.items, []);
});

test("an id with every allowed character", async (t) => {
  const client = await signedIn(await world.connected(t, { as: ODD }));
  const inbox = new Inbox().bind(client.user, "hello");
  const errors = new Inbox().bind(client.connection, "error");
  await world.api.sendToUser(ODD, "hello", 1);
  await inbox.next("hello");
  await world.api.terminateUserConnections(ODD);
  await terminated(client, errors);
});

test("what is sent while a client signs in comes in order, each event once", async (t) => {
  const client = await world.connected(t);
  const inbox = new Inbox().bind(client.user, "count");
  const arrival = signedIn(client);
  let sent = 0;
  for (let after = 0; after < 5; sent++) {
    await world.api.sendToUser("ada", "count", sent);
    if (client.user.serverToUserChannel?.subscribed) after++;
    assert.ok(sent < 10_000, "the client never subscribes to its user's channel");
  }
  await arrival;
  const { data: first } = await inbox.next("count");
  const rest = (await inbox.take(sent - 1 - first)).map(({ data }) => data);
  assert.deepEqual(rest, Array.from(rest, (_, n) => first + 1 + n));
  await settled(client);
  assert.deepEqual(inbox.items, []);
});

test("the channels of users are not listed", async (t) => {
  const client = await signedIn(await world.connected(t));
  await subscribed(client, "listed");
  const { channels } = await world.get("/channels");
  assert.ok("listed" in channels);
  assert.deepEqual(Object.keys(channels).filter((name) => name.startsWith("#")), []);
});

test("what cannot be sent to a user is refused, and nobody being there is no error", async () => {
  assert.throws(() => world.api.sendToUser("", "hello", 1), /Invalid user id/);
  assert.equal((await refusal(world.api.sendToUser("not an id", "hello", 1))).status, 400);
  assert.equal((await refusal(world.api.sendToUser("ada", "pusher:error", 1))).status, 400);
  assert.equal((await refusal(world.api.sendToUser("ada", "hello", "x".repeat(10_241)))).status, 413);
  const answer = await world.api.sendToUser("nobody-ever", "hello", 1);
  assert.equal(await answer.text(), "{}");
});

test("a presence channel whose route names nobody is joined as the signed-in user", async (t) => {
  const watcher = await world.connected(t, { as: "bob" });
  const room = await subscribed(watcher, "presence-users");
  const inbox = new Inbox().bind(room, "pusher:member_added", "pusher:member_removed");

  const client = world.client(t, { auth: "/plain/auth" });
  client.signin();
  // Not waiting for the sign-in: pusher-js does that by itself.
  const channel = await subscribed(client, "presence-users");
  assert.equal(channel.members.myID, "ada");
  assert.deepEqual(channel.members.me, { id: "ada", info: ADA });
  assert.deepEqual({ ...channel.members.members }, { ada: ADA, bob: BOB });
  assert.deepEqual((await inbox.next("pusher:member_added")).data, { id: "ada", info: ADA });

  client.disconnect();
  assert.equal((await inbox.next("pusher:member_removed")).data.id, "ada");
});

test("a presence channel whose route names somebody is joined as that one", async (t) => {
  const customHandler = ({ socketId }, callback) => {
    callback(null, world.api.authenticateUser(socketId, { id: "ada", user_info: ADA }));
  };
  const client = world.client(t, { auth: "/with-user/auth", as: "bob", userAuthentication: { customHandler } });
  await signedIn(client);
  assert.equal(client.user.user_data.id, "ada");
  const channel = await subscribed(client, "presence-named");
  assert.deepEqual(channel.members.me, { id: "bob", info: BOB });
});

test("a presence channel whose route names nobody is refused without a sign-in", async (t) => {
  const client = await world.connected(t, { auth: "/plain/auth" });
  const channel = client.subscribe("presence-users");
  const inbox = new Inbox().bind(channel, "pusher:subscription_succeeded", "pusher:subscription_error");
  await inbox.next("pusher:subscription_error");
});

test("terminateUserConnections ends all connections of the user and no others (conformance case 166)", async (t) => {
  const [one, two, bob] = await Promise.all(["ada", "ada", "bob"].map((as) => world.connected(t, { as })));
  await Promise.all([one, two, bob].map((client) => signedIn(client)));
  // Only a member who goes by that name, not signed in.
  const member = await world.connected(t);
  const room = new Inbox().bind(await subscribed(member, "presence-terminated"), "end");
  const [errorsOfOne, errorsOfTwo] = [one, two].map((client) => new Inbox().bind(client.connection, "error"));
  const retries = new Inbox().bind(one.connection, "connecting_in").bind(two.connection, "connecting_in");

  const response = await world.api.terminateUserConnections("ada");
  assert.equal(response.status, 200);
  assert.equal(await response.text(), "{}");
  await terminated(one, errorsOfOne);
  await terminated(two, errorsOfTwo);
  for (const client of [one, two]) assert.equal(client.connection.state, "disconnected");
  assert.deepEqual(retries.items, []);

  const inbox = new Inbox().bind(bob.user, "end");
  await world.api.sendToUser("bob", "end", 1);
  await inbox.next("end");
  await world.api.trigger("presence-terminated", "end", 1);
  await room.next("end");
  assert.deepEqual([bob.connection.state, member.connection.state], ["connected", "connected"]);

  // The user may come back; pusher-js remembers that it was signed in.
  one.connect();
  await connected(one);
  await signedIn(one);
  const again = new Inbox().bind(one.user, "hello");
  await world.api.sendToUser("ada", "hello", 1);
  await again.next("hello");
  assert.equal(two.connection.state, "disconnected");
});

test("terminating somebody who is nowhere changes nothing", async (t) => {
  const client = await signedIn(await world.connected(t));
  for (const id of ["nobody-ever", "ad", "ada-", "Ada", "ada,bob", "..a", "%2561da", "zo%C3%AB", "%FF", "a%20b"]) {
    const response = await world.api.terminateUserConnections(id);
    assert.equal(await response.text(), "{}", id);
    await settled(client);
    assert.equal(client.connection.state, "connected", id);
  }
});

test("a termination that is not signed with the app's secret is refused", async (t) => {
  const client = await signedIn(await world.connected(t));
  for (const [status, api] of [
    [401, world.sdk({ ...APP, secret: "guessed" })],
    [401, world.sdk({ ...APP, key: "nobody" })],
    [401, world.sdk({ ...APP, id: QUIET.id })],
    [404, world.sdk({ ...APP, id: "999" })],
  ]) {
    assert.equal((await refusal(api.terminateUserConnections("ada"))).status, status);
  }
  assert.equal((await refusal(world.api.get({ path: "/users/ada/terminate_connections" }))).status, 404);
  // A user of that name in another app is somebody else.
  await world.sdk(QUIET).terminateUserConnections("ada");
  await settled(client);
  assert.equal(client.connection.state, "connected");
});

test("clients sign in again by themselves when the server is replaced", async (t) => {
  const [first, second] = await Promise.all([Fanfare.start(), Fanfare.start()]);
  t.after(() => second.stop());
  const entrance = await Entrance.open(first);
  t.after(() => entrance.close());
  const client = world.client(t, { wsHost: entrance.host, wsPort: entrance.port, auth: "/plain/auth" });
  await signedIn(client);
  const socket = client.connection.socket_id;
  const inbox = new Inbox().bind(client.user, "hello", "end");
  const channel = await subscribed(client, "presence-moving");
  const joins = new Inbox().bind(channel, "pusher:subscription_succeeded");

  const states = new Inbox().bind(client.connection, "state_change");
  entrance.lead(second);
  const stopped = first.stop();
  assert.equal((await states.next()).data.current, "connecting");
  assert.equal((await states.next()).data.current, "connected");
  await signedIn(client);
  assert.notEqual(client.connection.socket_id, socket);
  await joins.next("pusher:subscription_succeeded");
  assert.deepEqual(channel.members.me, { id: "ada", info: ADA });
  await stopped;

  const api = world.sdk(APP, { host: second.host, port: second.port });
  await api.sendToUser("ada", "hello", { from: "second" });
  await api.sendToUser("ada", "end", 1);
  assert.deepEqual((await inbox.next("hello")).data, { from: "second" });
  await inbox.next("end");
});

for (const [why, userAuth] of [
  ["with another secret", "/wrong-secret/user-auth"],
  ["for another connection", "/wrong-socket/user-auth"],
  ["for another user", "/tampered/user-auth"],
]) {
  test(`a sign-in signed ${why} is refused and the connection stays`, async (t) => {
    const client = await world.connected(t, { userAuth });
    const errors = new Inbox().bind(client.connection, "error");
    const inbox = new Inbox().bind(client.user, "secret");
    client.signin();
    let done = false;
    const finished = client.user.signinDonePromise.then(() => {
      done = true;
    });
    const { data: error } = await errors.next("error");
    assert.equal(error.type, "PusherError");
    assert.equal(error.data.code, null);
    assert.match(error.data.message, /Invalid signature/);

    // Everything else works as before, and nothing for that user arrives.
    for (const user of ["ada", "eve"]) await world.api.sendToUser(user, "secret", 1);
    const open = new Inbox().bind(await subscribed(client, "open-to-all"), "hello");
    await world.api.trigger("open-to-all", "hello", 1);
    await open.next("hello");
    await settled(client);
    assert.equal(done, false);
    assert.equal(client.user.user_data, null);
    assert.equal(client.connection.state, "connected");
    assert.deepEqual([...inbox.items, ...errors.items], []);

    // One refusal does not spoil the connection for a good try.
    const answer = world.api.authenticateUser(client.connection.socket_id, { id: "ada" });
    client.connection.send_event("pusher:signin", answer);
    await within(DEADLINE, "the sign-in", finished);
    await world.api.sendToUser("ada", "secret", 2);
    assert.equal((await inbox.next("secret")).data, 2);
  });
}

test("a route that says no is the client's own error", async (t) => {
  const client = await world.connected(t, { userAuth: "/no-such-route" });
  const inbox = new Inbox().bind(client.user, "pusher:signin_error");
  client.signin();
  const { data } = await inbox.next("pusher:signin_error");
  assert.equal(data.type, "AuthError");
  assert.equal(data.status, 403);
  await subscribed(client, "open-to-all");
});

test("user_data that names no user is refused although it is signed", async (t) => {
  const client = await world.connected(t);
  const errors = new Inbox().bind(client.connection, "error");
  for (const text of [
    "", "not json", "null", "5", "[]", "{}", '{"user_info":{"id":"ada"}}',
    '{"id":10}', '{"id":""}', '{"id":null}', '{"id":"a b"}', '{"id":"#a"}', '{"id":"zoë"}',
    `{"id":"${"x".repeat(201)}"}`,
  ]) {
    assert.match(await refused(client, errors, careless(client, text)), /user_data/, text);
  }
  await settled(client);
  assert.equal(client.connection.state, "connected");
});

test("a sign-in without its parts is refused", async (t) => {
  const client = await world.connected(t);
  const errors = new Inbox().bind(client.connection, "error");
  const good = world.api.authenticateUser(client.connection.socket_id, { id: "ada" });
  for (const data of [
    {}, { auth: good.auth }, { user_data: good.user_data }, { ...good, user_data: JSON.parse(good.user_data) },
    { ...good, auth: "" }, { ...good, auth: "nocolon" }, { ...good, auth: 5 },
    { ...good, auth: good.auth.toUpperCase() }, { ...good, auth: good.auth.replace(APP.key, QUIET.key) },
    "ada", null, [],
  ]) {
    assert.ok((await refused(client, errors, data)).length > 0, JSON.stringify(data));
  }
  await settled(client);
  assert.equal(client.connection.state, "connected");
});

test("a connection stays the user that it signed in as", async (t) => {
  const client = await signedIn(await world.connected(t));
  const inbox = new Inbox().bind(client.user, "hello", "end");
  const errors = new Inbox().bind(client.connection, "error");
  await refused(client, errors, world.api.authenticateUser(client.connection.socket_id, { id: "eve" }));
  await world.api.sendToUser("eve", "hello", 1);
  await world.api.sendToUser("ada", "end", 1);
  await inbox.next("end");
  assert.equal(client.user.user_data.id, "ada");
});

test("nobody can subscribe to the channel of another user", async (t) => {
  const eve = await signedIn(await world.connected(t, { as: "eve" }));
  const nobody = await world.connected(t);
  for (const client of [eve, nobody]) {
    const errors = new Inbox().bind(client.connection, "error");
    const strays = heard(client);
    // pusher-js has no such channels to offer.
    client.connection.send_event("pusher:subscribe", { channel: "#server-to-user-ada", auth: "" });
    assert.equal((await errors.next("error")).data.data.code, null);
    await world.api.sendToUser("ada", "secret", 1);
    await settled(client);
    assert.deepEqual(strays.items, []);
  }
});
