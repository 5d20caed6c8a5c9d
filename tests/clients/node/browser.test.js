// pusher-js's web build in a real browser, on a page of another origin: the HTTP fallbacks with all
// that browsers add to them.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Browser } from "./support/browser.js";
import { Entrance } from "./support/entrance.js";
import { APP, Fanfare } from "./support/fanfare.js";
import { Inbox } from "./support/wait.js";
import { World, at, subscribed } from "./support/world.js";

/** A page that is gone is missed 10 s after its last request. */
const MISSED = 30_000;
/** pusher-js looks again every 15 s when nobody answered. */
const FOUND_AGAIN = 40_000;
const SCREENSHOTS = fileURLToPath(new URL("../../../target/screenshots/", import.meta.url));

let world;
let browser;
before(async () => {
  world = await World.start();
  browser = await Browser.start();
});
after(async () => {
  await browser?.stop();
  await world.stop();
});

/** A page that is told to connect through an entrance of its own, which notes the requests. */
async function visit(t, { server = world.server, upgrades, webSocket = false, ...options }) {
  const way = await Entrance.open(server, { upgrades });
  t.after(() => way.close());
  const page = await browser.visit(t, { key: APP.key, webSocket, ...world.options({ ...at(way), ...options }) });
  t.after(() => assert.deepEqual(page.problems, []));
  return { page, way };
}

/** How often each session asked for `action`. */
function askedFor({ requests }, action) {
  const sessions = requests.items.filter(({ name, path }) => name === "POST" && path.endsWith(`/${action}`));
  return { times: sessions.length, sessions: new Set(sessions.map(({ path }) => path)).size };
}

// All at once, since some of them only wait for the patience of server or client.
describe("in Chromium", { concurrency: 4 }, () => {
  for (const [transport, receive] of [["xhr_streaming", "xhr_streaming"], ["xhr_polling", "xhr"]]) {
    /** A name that the other transport's tests do not use. */
    const own = (name) => `${name}-${transport}`;
    const over = (options) => ({ enabledTransports: [transport], ...options });

    describe(`${transport} in a browser without WebSocket`, { concurrency: 4 }, () => {
      test("public, private and presence channels, and client events both ways", async (t) => {
        const { page, way } = await visit(t, over({ as: "bob" }));
        await page.connected();
        const ada = await world.connected(t);
        const room = await subscribed(ada, own("presence-page"));
        const atAda = new Inbox().bind(room, "client-said");

        await page.join(own("news"));
        await world.api.trigger(own("news"), "hello", { text: "Grüße, 🎺 \\ \" \u2028 <b>" });
        assert.deepEqual((await page.next("hello")).data, { text: "Grüße, 🎺 \\ \" \u2028 <b>" });
        await page.join(own("private-orders"));
        await world.api.trigger(own("private-orders"), "shipped", { id: 7 });
        assert.deepEqual((await page.next("shipped")).data, { id: 7 });
        assert.deepEqual(await page.join(room.name), ["ada", "bob"]);

        assert.equal(await page.say(room.name, "client-said", { text: "from the page" }), true);
        const { data, metadata } = await atAda.next("client-said");
        assert.deepEqual([data, metadata.user_id], [{ text: "from the page" }, "bob"]);
        room.trigger("client-said", "to the page");
        assert.equal((await page.next("client-said")).data, "to the page");

        assert.equal(await page.shown("state"), "connected");
        assert.equal(await page.shown("members"), "ada, bob");
        await page.page.screenshot({ path: `${SCREENSHOTS}${transport}.png`, fullPage: true });

        // By nothing else than this transport, and each kind of request was asked for first.
        assert.equal(askedFor(way, receive).sessions, 1);
        for (const action of [receive, "xhr_send"]) {
          const of = way.requests.items.filter(({ path }) => path.endsWith(`/${action}`)).map(({ name }) => name);
          assert.deepEqual(of.slice(0, 2), ["OPTIONS", "POST"], action);
        }
        assert.deepEqual(way.requests.items.filter(({ name }) => !["OPTIONS", "POST"].includes(name)), []);
      });

      test("300 KiB through one stream, in order and without loss", async (t) => {
        const { page, way } = await visit(t, over());
        await page.connected();
        const name = own("page-long");
        await page.join(name);
        const parts = Array.from({ length: 90 }, (_, n) => ({ n, text: "é🎺x".repeat(1_000) }));
        for (let from = 0; from < parts.length; from += 10) {
          const batch = parts.slice(from, from + 10).map((part) => (
            { name: "part", channel: name, data: JSON.stringify(part) }
          ));
          await world.api.triggerBatch(batch);
        }
        for (const part of parts) assert.deepEqual((await page.next("part")).data, part);
        const asked = askedFor(way, receive);
        assert.ok(asked.times > 1, "one reply was enough");
        assert.equal(asked.sessions, 1, "always the same session");
        assert.deepEqual(page.inbox.items, []);
      });

      test("a restarted server is found again", async (t) => {
        const server = await Fanfare.start({ listen: "127.0.77.4:0" });
        const { page } = await visit(t, over({ server }));
        const before = await page.connected();
        await page.join(own("restart"));
        await server.stop();
        const again = await Fanfare.start({ listen: server.address });
        t.after(() => again.stop());
        // What it notices in between depends on how fast that was.
        let item;
        do {
          item = await page.next(undefined, FOUND_AGAIN);
          assert.ok(["error", "connecting", "unavailable", "connected"].includes(item.name), item.name);
        } while (item.name !== "connected");
        assert.notEqual(item.data, before);
        await page.next("pusher:subscription_succeeded");
        await world.sdk(APP, again).trigger(own("restart"), "hello", "back");
        assert.equal((await page.next("hello")).data, "back");
      });

      test("a page that is closed leaves its presence channel", async (t) => {
        const { page } = await visit(t, over({ as: "bob" }));
        await page.connected();
        const room = own("presence-closed");
        const ada = await world.connected(t);
        const inbox = new Inbox().bind(await subscribed(ada, room), "pusher:member_added", "pusher:member_removed");
        await page.join(room);
        assert.equal((await inbox.next("pusher:member_added")).data.id, "bob");
        await page.close();
        assert.equal((await inbox.next("pusher:member_removed", MISSED)).data.id, "bob");
      });

      test("an unknown key and a wrong signature are refused", async (t) => {
        const { page: stranger } = await visit(t, over({ key: "no-such-key" }));
        assert.equal((await stranger.next("error")).data.code, 4001);
        await stranger.next("disconnected");

        const { page } = await visit(t, over({ auth: "/wrong-secret/auth" }));
        await page.connected();
        await page.page.evaluate((name) => join(name), own("private-orders"));
        const refusals = [await page.next(), await page.next()];
        assert.deepEqual(refusals.map(({ name }) => name).sort(), ["error", "pusher:subscription_error"]);
        await page.join(own("open"));
        assert.equal(await page.shown("state"), "connected");
      });
    });
  }

  test("where no WebSocket gets through, the browser falls back by itself", async (t) => {
    const enabledTransports = ["ws", "xhr_streaming", "xhr_polling"];
    const { page, way } = await visit(t, { upgrades: false, webSocket: true, enabledTransports });
    await page.connected(30_000);
    assert.ok(way.requests.items.some(({ refused }) => refused), "a WebSocket was tried");
    assert.ok(askedFor(way, "xhr_streaming").times > 0);
    await page.join("private-automatic");
    await world.api.trigger("private-automatic", "hello", "by other means");
    assert.equal((await page.next("hello")).data, "by other means");
  });

  test("the same page uses a WebSocket where it can", async (t) => {
    const enabledTransports = ["ws", "xhr_streaming", "xhr_polling"];
    const { page, way } = await visit(t, { webSocket: true, enabledTransports });
    await page.connected();
    await page.join("private-direct");
    assert.deepEqual(way.requests.items.map(({ name }) => name), ["GET"]);
  });
});
