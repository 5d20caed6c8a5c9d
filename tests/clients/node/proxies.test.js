// The proxies that config/deploy has files for, in front of two servers: pusher-js and a backend
// through each of them, by every transport.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { connect } from "node:net";
import { after, before, describe, test } from "node:test";

import { APP, Fanfare } from "./support/fanfare.js";
import { Proxy } from "./support/proxy.js";
import { Inbox, within } from "./support/wait.js";
import { World, at, settled, subscribed } from "./support/world.js";

/** A client is missed 10 s after its last request has ended. A proxy that does not say so at once makes that 35. */
const MISSED = 30_000;
/** So many that no luck sends them all, or all of their requests, to one of two servers. */
const MANY = 60;
/** So many answers in a row that each server has had its turn. */
const IN_A_ROW = 20;
const TRANSPORTS = ["ws", "xhr_streaming", "xhr_polling"];

// The servers are no cluster: what is on one of them is not on the other.
let worlds;
before(async () => {
  worlds = await Promise.all([World.start(), World.start()]);
});
after(() => Promise.all(worlds.map((world) => world.stop())));

/** Sends a proxy a request with a body that cannot be read, and waits for the end. */
function brokenOff({ host, port }) {
  const socket = connect({ host, port });
  socket.write("POST /apps/1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n");
  socket.resume();
  return within(MISSED, "an end", new Promise((resolve) => socket.once("close", resolve).once("error", () => {})));
}

/** The server that has the channel. */
async function home(channel) {
  for (const world of worlds) {
    if ((await world.get(`/channels/${channel}`)).occupied) return world;
  }
  assert.fail(`nobody is in ${channel}`);
}

// All at once, since some of them only wait for the patience of a server.
describe("proxies", { concurrency: 3 }, () => {
  for (const kind of ["nginx", "cluster", "haproxy", "caddy"]) {
    describe(kind, { concurrency: 4 }, () => {
      let proxy;
      before(async () => {
        proxy = await Proxy.start(kind, worlds.map(({ server }) => server));
      });
      after(() => proxy.stop());

      const connected = (t, options) => worlds[0].connected(t, { ...at(proxy), ...options });
      const own = (name) => `${name}-${kind}`;

      for (const transport of TRANSPORTS) {
        const over = (options) => ({ enabledTransports: [transport], ...options });
        const room = (name) => own(`${name}-${transport}`);

        test(`${transport}: messages come one by one, as they are published`, async (t) => {
          const client = await connected(t, over());
          const name = room("private-steps");
          const channel = await subscribed(client, name);
          const inbox = new Inbox().bind(channel, "step");
          const { api } = await home(name);
          for (let n = 0; n < 5; n++) {
            await api.trigger(name, "step", n);
            // Nothing else follows until this one is here.
            assert.equal((await inbox.next("step")).data, n);
          }
        });

        test(`${transport}: 300 KiB arrive in order and without loss`, async (t) => {
          const client = await connected(t, over());
          const id = client.connection.socket_id;
          const name = room("long");
          const inbox = new Inbox().bind(await subscribed(client, name), "part");
          const { api } = await home(name);
          const parts = Array.from({ length: 90 }, (_, n) => ({ n, text: "é🎺x".repeat(1_000) }));
          for (let from = 0; from < parts.length; from += 10) {
            await api.triggerBatch(parts.slice(from, from + 10).map((part) => (
              { name: "part", channel: name, data: JSON.stringify(part) }
            )));
          }
          assert.deepEqual((await inbox.take(parts.length)).map(({ data }) => data), parts);
          await settled(client);
          assert.equal(client.connection.socket_id, id);
          assert.deepEqual(inbox.items, []);
        });

        test(`${transport}: client events, and a presence channel that is left`, async (t) => {
          const client = await connected(t, over({ as: "bob" }));
          const name = room("presence-left");
          const channel = await subscribed(client, name);
          const { server } = await home(name);
          const ada = await worlds[0].connected(t, at(server));
          const inbox = new Inbox().bind(await subscribed(ada, name), "client-said", "pusher:member_removed");
          channel.trigger("client-said", "through the proxy");
          assert.equal((await inbox.next("client-said")).data, "through the proxy");
          client.disconnect();
          assert.equal((await inbox.next("pusher:member_removed", MISSED)).data.id, "bob");
        });

        test(`${transport}: an unknown key is refused with 4001`, async (t) => {
          const client = worlds[0].client(t, { ...at(proxy), ...over({ key: "no-such-key" }) });
          const errors = new Inbox().bind(client.connection, "error");
          assert.equal((await errors.next("error")).data.error.data.code, 4001);
        });

        test(`${transport}: clients are on both servers, and each stays on its own`, async (t) => {
          const clients = [];
          const homes = new Set();
          // Until each server has some.
          while (homes.size < 2 || clients.length < 8) {
            assert.ok(clients.length < MANY, "all on one server");
            const client = await connected(t, over());
            const name = room(`spread-${clients.length}`);
            await subscribed(client, name);
            homes.add(await home(name));
            clients.push({ client, id: client.connection.socket_id });
          }
          // A request of a session that goes to the other server is lost there.
          for (let round = 0; round < 3; round++) {
            await Promise.all(clients.map(({ client }) => settled(client)));
          }
          for (const { client, id } of clients) assert.equal(client.connection.socket_id, id);
        });
      }

      test("the HTTP API is answered by both servers", async (t) => {
        const name = own("only-on-one");
        await subscribed(await worlds[0].connected(t), name);
        const api = worlds[0].sdk(APP, proxy);
        const answers = new Set();
        for (let n = 0; answers.size < 2; n++) {
          assert.ok(n < MANY, "always the same server");
          answers.add((await worlds[0].get(`/channels/${name}`, {}, api)).occupied);
        }
      });

      test("an event as large as Fanfare takes it passes", async () => {
        const api = worlds[0].sdk(APP, proxy);
        const event = { name: "large", channel: "large", data: "x".repeat(10_000) };
        assert.equal((await api.triggerBatch(Array(10).fill(event))).status, 200);
        await assert.rejects(api.trigger("large", "large", "x".repeat(20_000)), { status: 413 });
      });

      test("a request that is too large or broken does not take the servers away", async () => {
        const api = worlds[0].sdk(APP, proxy);
        const url = `http://${proxy.host}:${proxy.port}/apps/${APP.id}/events`;
        for (let n = 0; n < 4; n++) {
          const response = await fetch(url, { method: "POST", body: "x".repeat(12_000_000) });
          await response.text();
          // Nobody has signed it, either: that is seen first.
          assert.equal(response.status, 401);
          await brokenOff(proxy);
        }
        for (let n = 0; n < IN_A_ROW; n++) {
          assert.equal((await api.trigger("a", "b", "c")).status, 200);
        }
      });
    });

    test(`${kind} tells where a client comes from, whatever the client says`, async (t) => {
      const requests = new Inbox();
      const origin = createServer(({ headers }, response) => {
        requests.put({ name: "request", data: headers });
        response.end("{}");
      });
      await new Promise((resolve) => origin.listen(0, "127.0.0.1", resolve));
      t.after(() => origin.close());
      const server = { host: "127.0.0.1", port: origin.address().port };
      const proxy = await Proxy.start(kind, [server, server]);
      t.after(() => proxy.stop());
      for (const path of ["/apps/1/channels", "/pusher/app/app-key/1/abc/xhr"]) {
        const headers = { "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https" };
        await fetch(`http://${proxy.host}:${proxy.port}${path}`, { method: "POST", headers });
        for (;;) {
          const { data: seen } = await requests.next("request");
          // HAProxy looks by itself whether a server is there.
          if (!seen["x-forwarded-for"]) continue;
          // Fanfare takes the last address that is no proxy's.
          assert.equal(seen["x-forwarded-for"].split(",").at(-1).trim(), "127.0.0.1", path);
          assert.equal(seen["x-forwarded-proto"], "http", path);
          break;
        }
      }
    });
  }
});

test("when one of two servers has gone, each proxy soon has the other answer everything", async (t) => {
  const gone = await World.start();
  const servers = [gone.server, worlds[0].server];
  const kinds = ["nginx", "cluster", "haproxy", "caddy"];
  const proxies = await Promise.all(kinds.map((kind) => Proxy.start(kind, servers)));
  t.after(() => Promise.all(proxies.map((proxy) => proxy.stop())));
  await gone.stop();
  const late = Date.now() + MISSED;
  await Promise.all(proxies.map(async (proxy, n) => {
    for (let answered = 0; answered < IN_A_ROW;) {
      assert.ok(Date.now() < late, `${kinds[n]} goes on asking who is gone`);
      const api = worlds[0].sdk(APP, proxy);
      const status = await api.trigger("a", "b", "c").then((reply) => reply.status, (error) => error.status);
      answered = status === 200 ? answered + 1 : 0;
    }
  }));
});

test("without a server behind it, each proxy says so", async () => {
  const nowhere = { host: "127.0.77.6", port: 1 };
  for (const kind of ["nginx", "cluster", "haproxy", "caddy"]) {
    const proxy = await Proxy.start(kind, [nowhere, nowhere]);
    const response = await fetch(`http://${proxy.host}:${proxy.port}/apps/1/channels`);
    await response.text();
    assert.ok([502, 503].includes(response.status), `${kind}: ${response.status}`);
    await proxy.stop();
  }
});
