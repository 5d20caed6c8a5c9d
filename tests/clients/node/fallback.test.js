// pusher-js's HTTP fallbacks, xhr_streaming and xhr_polling: the same client where no WebSocket can
// get through. In node; browser.test.js has the same in a real browser.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Entrance } from "./support/entrance.js";
import { APP, DISABLED, Fanfare, SMALL } from "./support/fanfare.js";
import { Inbox, within } from "./support/wait.js";
import { World, at, comesBack, connected, settled, signedIn, subscribed } from "./support/world.js";

/** How long anything may take that waits until the server misses a client, 10 s after its last request. */
const MISSED = 30_000;
/** pusher-js looks again every 15 s when nobody answered. */
const FOUND_AGAIN = 40_000;

const TRANSPORTS = [
  { transport: "xhr_streaming", receive: "xhr_streaming", which: 148 },
  { transport: "xhr_polling", receive: "xhr", which: 149 },
];

let world;
before(async () => {
  world = await World.start();
});
after(() => world.stop());

/** A way to the server that notes the requests, closed when the test ends. */
async function entrance(t, options, server = world.server) {
  const made = await Entrance.open(server, options);
  t.after(() => made.close());
  return made;
}

/** The sessions that ask for `action`, one entry for each request. */
function sessions({ requests }, action) {
  const found = requests.items.map(({ path }) => path.match(/^\/pusher\/app\/([^/]+\/\d+\/[^/]+)\/(\w+)$/));
  return found.filter((match) => match?.[2] === action).map((match) => match[1]);
}

/** Waits for the next request that asks for `action`. */
async function asked({ requests }, action) {
  for (;;) {
    const request = await requests.next();
    if (request.path.endsWith(`/${action}`)) return request;
  }
}

// All at once, since some of them only wait for the patience of server or client.
describe("fallbacks", { concurrency: 3 }, () => {
  for (const { transport, receive, which } of TRANSPORTS) {
    /** A name that the other transport's tests do not use. */
    const own = (name) => `${name}-${transport}`;
    const over = (options) => ({ enabledTransports: [transport], ...options });

    describe(transport, { concurrency: 8 }, () => {
      test(`connects, subscribes and receives (conformance case ${which})`, async (t) => {
        const way = await entrance(t);
        const client = world.client(t, over(at(way)));
        const states = new Inbox().bind(client.connection, "state_change");
        assert.equal((await states.next()).data.current, "connected");
        assert.match(client.connection.socket_id, /^[1-9]\d*\.[1-9]\d*$/);
        const inbox = new Inbox().bind(await subscribed(client, own("public")), "hello");
        await world.api.trigger(own("public"), "hello", { text: "Grüße, 🎺 \\ \" \u2028" });
        const { data, metadata } = await inbox.next("hello");
        assert.deepEqual(data, { text: "Grüße, 🎺 \\ \" \u2028" });
        assert.deepEqual(metadata, {});
        // By nothing else than this transport, and all in one session.
        assert.deepEqual(way.requests.items.filter(({ name }) => name !== "POST"), []);
        const [first] = way.requests.items;
        assert.equal(first.query.get("protocol"), "7");
        const all = [...sessions(way, receive), ...sessions(way, "xhr_send")];
        assert.equal(all.length, way.requests.items.length);
        assert.equal(new Set(all).size, 1);
      });

      test("an event that is not for this socket does not arrive", async (t) => {
        const client = await world.connected(t, over());
        const inbox = new Inbox().bind(await subscribed(client, own("excluded")), "hello");
        await world.api.trigger(own("excluded"), "hello", 1, { socket_id: client.connection.socket_id });
        await world.api.trigger(own("excluded"), "hello", 2);
        assert.equal((await inbox.next("hello")).data, 2);
      });

      test("private channels, authorised by a route", async (t) => {
        const client = await world.connected(t, over());
        const inbox = new Inbox().bind(await subscribed(client, own("private-fallback")), "hello");
        await world.api.trigger(own("private-fallback"), "hello", { to: "members" });
        assert.deepEqual((await inbox.next("hello")).data, { to: "members" });
      });

      test("presence: who disconnects leaves the channel", async (t) => {
        const ada = await world.connected(t, over());
        const bob = await world.connected(t, over({ as: "bob" }));
        const room = own("presence");
        const inbox = new Inbox().bind(await subscribed(ada, room), "pusher:member_added", "pusher:member_removed");
        const theirs = await subscribed(bob, room);
        assert.deepEqual(Object.keys(theirs.members.members).sort(), ["ada", "bob"]);
        assert.equal((await inbox.next("pusher:member_added")).data.id, "bob");
        bob.disconnect();
        assert.equal((await inbox.next("pusher:member_removed", MISSED)).data.id, "bob");
        await settled(ada);
      });

      test(`client events both ways (conformance case ${which})`, async (t) => {
        const [ada, bob] = await Promise.all([world.connected(t, over()), world.connected(t, over({ as: "bob" }))]);
        const room = own("presence-talk");
        const adas = await subscribed(ada, room);
        const bobs = await subscribed(bob, room);
        const [atAda, atBob] = [adas, bobs].map((channel) => new Inbox().bind(channel, "client-said"));
        assert.equal(adas.trigger("client-said", { text: "hello, 🎺" }), true);
        const heard = await atBob.next("client-said");
        assert.deepEqual(heard.data, { text: "hello, 🎺" });
        assert.deepEqual(heard.metadata, { user_id: "ada" });
        bobs.trigger("client-said", "hi");
        assert.deepEqual((await atAda.next("client-said")).data, "hi");
        await Promise.all([settled(ada), settled(bob)]);
        assert.deepEqual([...atAda.items, ...atBob.items], []);
      });

      test("300 KiB arrive in order and without loss (conformance case 150)", async (t) => {
        const way = await entrance(t);
        const client = await world.connected(t, over(at(way)));
        const id = client.connection.socket_id;
        const channel = await subscribed(client, own("long"));
        const inbox = new Inbox().bind(channel, "part");
        const states = new Inbox().bind(client.connection, "state_change");
        // 630 KiB, or 350 Ki characters: pusher-js begins another request after 256 Ki.
        const parts = Array.from({ length: 90 }, (_, n) => ({ n, text: "é🎺x".repeat(1_000) }));
        for (let from = 0; from < parts.length; from += 10) {
          const batch = parts.slice(from, from + 10).map((part) => (
            { name: "part", channel: channel.name, data: JSON.stringify(part) }
          ));
          await world.api.triggerBatch(batch);
        }
        assert.deepEqual((await inbox.take(parts.length)).map(({ data }) => data), parts);
        await settled(client);
        assert.equal(client.connection.socket_id, id);
        assert.deepEqual([...inbox.items, ...states.items], []);
        const readers = sessions(way, receive);
        assert.ok(readers.length > 1, "one reply was enough");
        assert.equal(new Set(readers).size, 1, "always the same session");
      });

      test("keeps a silent connection alive by its own pings", async (t) => {
        const way = await entrance(t);
        const client = await world.connected(t, over({ ...at(way), activityTimeout: 300, pongTimeout: 30_000 }));
        const id = client.connection.socket_id;
        const errors = new Inbox().bind(client.connection, "error");
        for (let round = 0; round < 5; round++) await asked(way, "xhr_send");
        assert.equal(client.connection.state, "connected");
        assert.equal(client.connection.socket_id, id);
        assert.deepEqual(errors.items, []);
      });

      test("sign-in, events to the user, and termination", async (t) => {
        const client = await signedIn(await world.connected(t, over({ as: transport })));
        const inbox = new Inbox().bind(client.user, "mail");
        await world.api.sendToUser(transport, "mail", { unread: 1 });
        assert.deepEqual((await inbox.next("mail")).data, { unread: 1 });
        const errors = new Inbox().bind(client.connection, "error");
        const retries = new Inbox().bind(client.connection, "connecting_in");
        const states = new Inbox().bind(client.connection, "state_change");
        await world.api.terminateUserConnections(transport);
        assert.equal((await errors.next("error")).data.data.code, 4009);
        assert.equal((await states.next()).data.current, "disconnected");
        assert.deepEqual(retries.items, []);
      });

      for (const { what, key, code } of [
        { what: "an unknown key", key: "no-such-key", code: 4001 },
        { what: "a disabled app", key: DISABLED.key, code: 4003 },
      ]) {
        test(`${what} is refused for good with ${code} (conformance case 155)`, async (t) => {
          const way = await entrance(t);
          const client = world.client(t, over({ ...at(way), key }));
          const errors = new Inbox().bind(client.connection, "error");
          const states = new Inbox().bind(client.connection, "state_change");
          const { data: error } = await errors.next("error");
          assert.equal(error.type, "WebSocketError");
          assert.equal(error.error.data.code, code);
          assert.ok(error.error.data.message.length > 0);
          assert.equal((await states.next()).data.current, "disconnected");
          assert.equal(way.requests.items.length, 1);
        });
      }

      test("disconnect and connect again on the same client object", async (t) => {
        await comesBack(await world.connected(t, over()));
      });

      test("a drained server sends its clients on at once (4200, conformance case 157)", async (t) => {
        const [first, second] = await Promise.all([Fanfare.start(), Fanfare.start()]);
        t.after(() => second.stop());
        const way = await entrance(t, {}, first);
        const client = await world.connected(t, over(at(way)));
        const before = client.connection.socket_id;
        const channel = await subscribed(client, own("moving"));
        const inbox = new Inbox().bind(channel, "hello", "pusher:subscription_succeeded");
        const errors = new Inbox().bind(client.connection, "error");
        // A client that polls hears of it only if it is not between two requests just then; the fourth
        // is the one that waits: opened, established, subscribed.
        for (let n = 0; n < (transport === "xhr_polling" ? 4 : 1); n++) await asked(way, receive);
        await world.sdk(APP, first).get({ path: "/channels" });

        way.lead(second);
        const stopped = first.stop();
        assert.equal((await errors.next("error")).data.data.code, 4200);
        await inbox.next("pusher:subscription_succeeded");
        assert.notEqual(client.connection.socket_id, before);
        await stopped;
        await world.sdk(APP, second).trigger(own("moving"), "hello", { from: "second" });
        assert.deepEqual((await inbox.next("hello")).data, { from: "second" });
      });

      test("clients find a restarted server again by themselves (conformance case 157)", async (t) => {
        // An address of its own, so that nothing else takes the port in between.
        const server = await Fanfare.start({ listen: "127.0.77.2:0" });
        const client = await world.connected(t, over(at(server)));
        const channel = await subscribed(client, own("restart"));
        const inbox = new Inbox().bind(channel, "hello", "pusher:subscription_succeeded");
        const states = new Inbox().bind(client.connection, "state_change");
        await server.stop();
        assert.equal((await states.next()).data.current, "connecting");
        const again = await Fanfare.start({ listen: server.address });
        t.after(() => again.stop());
        await inbox.next("pusher:subscription_succeeded", FOUND_AGAIN);
        await world.sdk(APP, again).trigger(own("restart"), "hello", "back");
        assert.equal((await inbox.next("hello")).data, "back");
      });

      test("a server that ends without a word is missed and found again (conformance case 157)", async (t) => {
        const server = await Fanfare.start({ listen: "127.0.77.3:0" });
        const client = await world.connected(t, over(at(server)));
        const channel = await subscribed(client, own("killed"));
        const inbox = new Inbox().bind(channel, "hello", "pusher:subscription_succeeded");
        await server.kill();
        const again = await Fanfare.start({ listen: server.address });
        t.after(() => again.stop());
        await inbox.next("pusher:subscription_succeeded", FOUND_AGAIN);
        await world.sdk(APP, again).trigger(own("killed"), "hello", "back");
        assert.equal((await inbox.next("hello")).data, "back");
      });

      test("a signature made with another secret is refused and the connection stays", async (t) => {
        const client = await world.connected(t, over({ auth: "/wrong-secret/auth" }));
        const channel = client.subscribe(own("private-fallback"));
        const inbox = new Inbox().bind(channel, "pusher:subscription_succeeded", "pusher:subscription_error", "secret");
        assert.equal((await inbox.next("pusher:subscription_error")).data.status, 401);
        await world.api.trigger(own("private-fallback"), "secret", 1);
        await settled(client);
        assert.deepEqual(inbox.items, []);
        await subscribed(client, own("public"));
      });

      test("a path that is not the server's makes the client unavailable", async (t) => {
        for (const httpPath of ["/elsewhere", "/pusher/app/app-key"]) {
          const client = world.client(t, over({ httpPath, unavailableTimeout: 500 }));
          const states = new Inbox().bind(client.connection, "state_change");
          assert.equal((await states.next()).data.current, "unavailable", httpPath);
          client.disconnect();
        }
      });

      test("broken frames are answered and the connection stays", async (t) => {
        const client = await world.connected(t, over());
        const errors = new Inbox().bind(client.connection, "error");
        for (const frame of ["not json", "[]", "1", "{}", '{"event":5}', '{"event":"pusher:subscribe"}']) {
          client.connection.send(frame);
          const { data: error } = await errors.next("error");
          assert.equal(error.data.code, null, frame);
        }
        await settled(client);
      });

      test("requests that no client makes are refused and the session stays (conformance case 152)", async (t) => {
        const way = await entrance(t);
        const client = await world.connected(t, over(at(way)));
        const [session] = sessions(way, receive);
        const post = async (path, body) => {
          const response = await fetch(`http://${world.server.address}/pusher/app/${path}`, { method: "POST", body });
          return [response.status, (await response.text()).trim()];
        };
        for (const broken of ["no json", "{}", "[1]", '["half', '"text"', "null"]) {
          assert.deepEqual(await post(`${session}/xhr_send`, broken), [500, "Broken JSON encoding."], broken);
        }
        assert.deepEqual(await post(`${session}/xhr_send`, ""), [500, "Payload expected."]);
        assert.deepEqual(await post(`${APP.key}/1/nobody/xhr_send`, "[]"), [404, "Unknown session"]);
        const elsewhere = session.replace(APP.key, "other-key");
        assert.deepEqual(await post(`${elsewhere}/xhr_send`, "[]"), [404, "Unknown session"]);
        assert.equal((await post(`${session}/eventsource`, ""))[0], 404);
        await settled(client);
        assert.equal(client.connection.state, "connected");
      });
    });
  }

  describe("transports beside each other", { concurrency: 4 }, () => {
    test("clients of all three talk in one channel", async (t) => {
      const people = await Promise.all(["ws", "xhr_streaming", "xhr_polling"].map(async (transport) => {
        const client = await world.connected(t, { as: transport, enabledTransports: [transport] });
        const channel = await subscribed(client, "presence-mixed");
        return { transport, client, channel, inbox: new Inbox().bind(channel, "hello", "client-said") };
      }));
      await Promise.all(people.map(({ client }) => settled(client)));
      for (const { channel } of people) {
        assert.deepEqual(Object.keys(channel.members.members).sort(), ["ws", "xhr_polling", "xhr_streaming"]);
      }
      await world.api.trigger("presence-mixed", "hello", 1);
      for (const { inbox } of people) assert.equal((await inbox.next("hello")).data, 1);
      for (const speaker of people) {
        speaker.channel.trigger("client-said", speaker.transport);
        for (const { inbox } of people.filter((person) => person !== speaker)) {
          const { data, metadata } = await inbox.next("client-said");
          assert.deepEqual([data, metadata.user_id], [speaker.transport, speaker.transport]);
        }
      }
      await Promise.all(people.map(({ client }) => settled(client)));
      for (const { inbox } of people) assert.deepEqual(inbox.items, []);
    });

    test("all three count for an app's connection limit", async (t) => {
      const first = await world.connected(t, { key: SMALL.key, enabledTransports: ["xhr_streaming"] });
      for (const transport of ["ws", "xhr_streaming", "xhr_polling"]) {
        const client = world.client(t, { key: SMALL.key, enabledTransports: [transport] });
        const errors = new Inbox().bind(client.connection, "error");
        assert.equal((await errors.next("error")).data.error.data.code, 4004, transport);
      }
      first.disconnect();
      await within(MISSED, "a free place", (async () => {
        for (;;) {
          const next = world.client(t, { key: SMALL.key, enabledTransports: ["ws"] });
          const end = new Inbox().bind(next.connection, "connected", "disconnected");
          if ((await end.next()).name === "connected") return;
        }
      })());
    });

    for (const [expected, ...more] of [["xhr_streaming", "xhr_polling"], ["xhr_polling"]]) {
      const enabledTransports = ["ws", expected, ...more];
      const room = `private-automatic-${expected}`;
      test(`where no WebSocket gets through, ${enabledTransports.join(", ")} ends with ${expected}`, async (t) => {
        const way = await entrance(t, { upgrades: false });
        const client = world.client(t, { ...at(way), enabledTransports });
        // pusher-js gives a WebSocket 5 s before it tries anything else.
        await connected(client, 30_000);
        assert.ok(way.requests.items.some(({ refused }) => refused), "a WebSocket was tried");
        const receive = TRANSPORTS.find(({ transport }) => transport === expected).receive;
        assert.ok(sessions(way, receive).length > 0);
        const channel = await subscribed(client, room);
        const inbox = new Inbox().bind(channel, "hello");
        await world.api.trigger(room, "hello", "by other means");
        assert.equal((await inbox.next("hello")).data, "by other means");
        const listener = await world.connected(t, { as: "bob" });
        const heard = new Inbox().bind(await subscribed(listener, room), "client-said");
        channel.trigger("client-said", 1);
        assert.equal((await heard.next("client-said")).data, 1);
      });
    }
  });
});
