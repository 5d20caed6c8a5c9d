// The HTTP API as the server SDK shows it: questions about channels, and errors.

import assert from "node:assert/strict";
import { Agent } from "node:http";
import { after, before, test } from "node:test";

import PusherServer from "pusher";

import { APP, DISABLED, QUIET } from "./support/fanfare.js";
import { World, refusal, settled, subscribed } from "./support/world.js";

let world;
before(async () => {
  world = await World.start();
});
after(() => world.stop());

test("nobody is anywhere", async () => {
  const response = await world.sdk(QUIET).get({ path: "/channels" });
  assert.equal(response.status, 200);
  assert.equal(await response.text(), '{"channels":{}}');
});

test("occupied channels are listed, filtered and counted", async (t) => {
  const [one, two] = await Promise.all([world.connected(t), world.connected(t)]);
  const third = await world.connected(t, { as: "bob" });
  for (const client of [one, two, third]) await subscribed(client, "presence-list-room");
  await subscribed(one, "list-open");
  await subscribed(one, "private-list");

  const { channels } = await world.get("/channels");
  for (const name of ["presence-list-room", "list-open", "private-list"]) assert.deepEqual(channels[name], {});
  assert.deepEqual(await world.get("/channels", { filter_by_prefix: "list-" }), { channels: { "list-open": {} } });
  assert.deepEqual(
    await world.get("/channels", { filter_by_prefix: "presence-list-", info: "user_count" }),
    { channels: { "presence-list-room": { user_count: 2 } } },
  );

  one.unsubscribe("list-open");
  await settled(one);
  assert.deepEqual(await world.get("/channels", { filter_by_prefix: "list-" }), { channels: {} });
});

test("user_count needs a presence prefix", async () => {
  for (const params of [{ info: "user_count" }, { info: "user_count", filter_by_prefix: "private-" }]) {
    const error = await refusal(world.api.get({ path: "/channels", params }));
    assert.equal(error.status, 400);
    assert.match(error.body, /presence/);
  }
});

test("one channel and what may be asked about it", async (t) => {
  const [one, two] = await Promise.all([world.connected(t), world.connected(t)]);
  for (const client of [one, two]) {
    await subscribed(client, "one-open");
    await subscribed(client, "presence-one");
  }
  assert.deepEqual(await world.get("/channels/one-open"), { occupied: true });
  assert.deepEqual(
    await world.get("/channels/one-open", { info: "subscription_count" }),
    { occupied: true, subscription_count: 2 },
  );
  assert.deepEqual(
    await world.get("/channels/presence-one", { info: "user_count,subscription_count" }),
    { occupied: true, user_count: 1, subscription_count: 2 },
  );
  assert.deepEqual(
    await world.get("/channels/presence-nobody", { info: "user_count" }),
    { occupied: false, user_count: 0 },
  );
  assert.deepEqual(await world.get("/channels/never-seen"), { occupied: false });
});

test("names with every allowed character can be asked about", async (t) => {
  const name = "aZ09_-=@,.;";
  await subscribed(await world.connected(t), name);
  assert.deepEqual(await world.get(`/channels/${name}`), { occupied: true });
});

test("what a channel cannot answer is refused", async () => {
  const count = await refusal(world.api.get({ path: "/channels/one-open", params: { info: "user_count" } }));
  assert.equal(count.status, 400);
  assert.match(count.body, /user count unless the channel is a presence channel/);
  const unknown = await refusal(world.api.get({ path: "/channels/one-open", params: { info: "shoe_size" } }));
  assert.equal(unknown.status, 400);
});

test("users of a presence channel", async (t) => {
  const [one, two] = await Promise.all([world.connected(t), world.connected(t)]);
  const third = await world.connected(t, { as: "bob" });
  for (const client of [one, two, third]) await subscribed(client, "presence-users");
  const { users } = await world.get("/channels/presence-users/users");
  assert.deepEqual(users.sort((a, b) => (a.id < b.id ? -1 : 1)), [{ id: "ada" }, { id: "bob" }]);
  assert.deepEqual(await world.get("/channels/presence-nobody/users"), { users: [] });
});

test("users of any other channel are refused", async () => {
  for (const name of ["open", "private-room"]) {
    const error = await refusal(world.api.get({ path: `/channels/${name}/users` }));
    assert.equal(error.status, 400);
    assert.match(error.body, /presence/);
  }
});

test("errors are text of one line", async () => {
  const error = await refusal(world.api.get({ path: "/channels/open/users" }));
  assert.match(error.body, /^[^{\n][^\n]*\n?$/);
});

test("a wrong secret is 401", async () => {
  const api = world.sdk({ ...APP, secret: "guessed" });
  const calls = [api.trigger("a", "b", "c"), api.triggerBatch([{ channel: "a", name: "b", data: "c" }]), api.get({ path: "/channels" })];
  // All at once: one that is refused before anybody waits for it would end the test by itself.
  for (const error of await Promise.all(calls.map(refusal))) {
    assert.equal(error.status, 401);
    assert.match(error.body, /Invalid signature/);
    assert.doesNotMatch(error.body, new RegExp(APP.secret));
  }
});

test("an unknown key is 401", async () => {
  assert.equal((await refusal(world.sdk({ ...APP, key: "nobody" }).get({ path: "/channels" }))).status, 401);
});

test("the key of another app is 401, an unknown app 404", async () => {
  assert.equal((await refusal(world.sdk({ ...APP, id: QUIET.id }).get({ path: "/channels" }))).status, 401);
  assert.equal((await refusal(world.sdk({ ...APP, id: "999" }).get({ path: "/channels" }))).status, 404);
});

test("a disabled app is 403", async () => {
  assert.equal((await refusal(world.sdk(DISABLED).get({ path: "/channels" }))).status, 403);
});

test("an unknown path is 404", async () => {
  assert.equal((await refusal(world.api.get({ path: "/nothing/here" }))).status, 404);
});

test("clocks may differ by ten minutes and no more", async (t) => {
  const real = Date.now;
  const call = (seconds) => {
    t.mock.method(Date, "now", () => real() + seconds * 1_000);
    const answer = world.api.get({ path: "/channels" });
    t.mock.restoreAll();
    return answer;
  };
  for (const seconds of [-590, 590]) assert.equal((await call(seconds)).status, 200);
  for (const seconds of [-610, 610]) {
    const error = await refusal(call(seconds));
    assert.equal(error.status, 401);
    assert.match(error.body, /Timestamp expired/);
  }
});

test("a client made from a URL works", async () => {
  const { host, port } = world.server;
  const api = PusherServer.forURL(`http://${APP.key}:${APP.secret}@${host}:${port}/apps/${APP.id}`);
  assert.equal((await api.trigger("a", "b", "c")).status, 200);
});

test("many calls over one kept connection", async () => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const api = world.sdk(APP, { agent });
  for (let n = 0; n < 20; n++) assert.equal(await (await api.trigger("kept", "n", n)).text(), "{}");
  const sockets = Object.values(agent.freeSockets).flat();
  assert.equal(sockets.length, 1);
  agent.destroy();
});
