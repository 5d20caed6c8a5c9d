// End-to-end encryption: the server relays what it cannot read.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { JSDOM } from "jsdom";

import { APP } from "./support/fanfare.js";
import { Inbox } from "./support/wait.js";
import { World, connected, refusal, settled, subscribed } from "./support/world.js";

let world;
before(async () => {
  world = await World.start();
});
after(() => world.stop());

const OTHER_KEY = Buffer.alloc(32, "other").toString("base64");
const SECRET = { card: "4000 0000", note: "für 🎺" };

test("from the server SDK to pusher-js and unreadable in between", async (t) => {
  const client = await world.connected(t);
  const frames = new Inbox();
  client.connection.bind("message", (frame) => frame.event === "paid" && frames.put({ name: "paid", data: frame.data }));
  const inbox = new Inbox().bind(await subscribed(client, "private-encrypted-bank"), "paid");
  await world.api.trigger("private-encrypted-bank", "paid", SECRET);
  assert.deepEqual((await inbox.next("paid")).data, SECRET);
  const { data: frame } = await frames.next("paid");
  assert.deepEqual(Object.keys(frame).sort(), ["ciphertext", "nonce"]);
});

test("the browser build with encryption decrypts as well", async (t) => {
  const page = new JSDOM("", { url: world.backend.url, runScripts: "outside-only" });
  t.after(() => page.window.close());
  page.window.eval(readFileSync(createRequire(import.meta.url).resolve("pusher-js/dist/web/pusher-with-encryption.js"), "utf8"));
  const client = new page.window.Pusher(APP.key, world.options());
  t.after(() => client.disconnect());
  await connected(client);
  const inbox = new Inbox().bind(await subscribed(client, "private-encrypted-browser"), "paid");
  await world.api.trigger("private-encrypted-browser", "paid", SECRET);
  const { data } = await inbox.next("paid");
  assert.deepEqual(JSON.parse(JSON.stringify(data)), SECRET);
});

test("encrypted events in a batch", async (t) => {
  const client = await world.connected(t);
  const inbox = new Inbox()
    .bind(await subscribed(client, "private-encrypted-batch"), "paid")
    .bind(await subscribed(client, "open-batch"), "seen");
  await world.api.triggerBatch([
    { channel: "private-encrypted-batch", name: "paid", data: SECRET },
    { channel: "open-batch", name: "seen", data: "x" },
  ]);
  assert.deepEqual((await inbox.next("paid")).data, SECRET);
  await inbox.next("seen");
});

test("an event encrypted with another master key is not decrypted", async (t) => {
  const client = await world.connected(t);
  const inbox = new Inbox().bind(await subscribed(client, "private-encrypted-foreign"), "paid");
  const foreign = world.sdk(APP, { encryptionMasterKeyBase64: OTHER_KEY });
  await foreign.trigger("private-encrypted-foreign", "paid", { from: "a stranger" });
  await world.api.trigger("private-encrypted-foreign", "paid", { from: "us" });
  assert.deepEqual((await inbox.next("paid")).data, { from: "us" });
});

test("the libraries refuse what encryption does not allow", async (t) => {
  assert.throws(
    () => world.api.trigger(["private-encrypted-bank", "open"], "paid", SECRET),
    /cannot trigger to multiple channels/,
  );
  const client = await world.connected(t);
  const channel = await subscribed(client, "private-encrypted-bank");
  assert.throws(() => channel.trigger("client-paid", SECRET), /not currently supported/);
});

test("a wrong signature on an encrypted channel is refused", async (t) => {
  const client = await world.connected(t, {
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, done) => done(null, {
        ...world.api.authorizeChannel(socketId, channelName),
        auth: `${APP.key}:${"0".repeat(64)}`,
      }),
    },
  });
  const inbox = new Inbox().bind(client.subscribe("private-encrypted-bank"), "pusher:subscription_error");
  assert.equal((await inbox.next("pusher:subscription_error")).data.type, "AuthError");
  await settled(client);
});

test("the ciphertext has to fit the limit", async () => {
  const error = await refusal(world.api.trigger("private-encrypted-bank", "paid", "x".repeat(10_000)));
  assert.equal(error.status, 413);
});
