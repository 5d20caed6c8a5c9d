// The customer's own application: its routes for channels and for signing in, written as the
// frameworks' guides write them, and a route that broadcasts to others.

import { createServer } from "node:http";

import PusherServer from "pusher";

/** The person behind a request; real applications look this up by cookie or token. */
const PEOPLE = {
  ada: { user_id: "ada", user_info: { name: "Ada Lovelace" } },
  bob: { user_id: "bob", user_info: { name: "Bob 🎺 Müller" } },
  ten: { user_id: 10, user_info: { name: "Number Ten" } },
  ghost: { user_id: "ghost" },
  nameless: { user_id: "", user_info: { name: "nobody" } },
  nested: { user_id: { id: 1 }, user_info: {} },
};

export class Backend {
  static async start(api) {
    const backend = new Backend();
    backend.api = api;
    /** Whom a person watches; real applications have that in their database. */
    backend.friends = {};
    backend.http = createServer((request, response) => {
      backend.answer(request, response).catch((error) => {
        reply(response, 500, { error: String(error) });
      });
    });
    await new Promise((resolve) => backend.http.listen(0, "127.0.0.1", resolve));
    backend.url = `http://127.0.0.1:${backend.http.address().port}`;
    return backend;
  }

  stop() {
    this.http.closeAllConnections();
    return new Promise((resolve) => this.http.close(resolve));
  }

  async answer(request, response) {
    if (request.method === "OPTIONS") return reply(response, 204);
    const body = await text(request);
    if (request.url === "/messages") return this.broadcast(request, response, JSON.parse(body));

    const form = new URLSearchParams(body);
    const socket = form.get("socket_id");
    const channel = form.get("channel_name");
    const name = request.headers["x-person"] ?? "ada";
    const person = PEOPLE[name] ?? { user_id: name };
    const user = { id: person.user_id, user_info: person.user_info, watchlist: this.friends[name] };
    switch (request.url) {
      // A Next.js route: one call for private and presence channels alike, always with the user.
      case "/with-user/auth":
        return reply(response, 200, this.api.authorizeChannel(socket, channel, person));
      // The shortest possible route: nothing but the channel.
      case "/plain/auth":
        return reply(response, 200, this.api.authorizeChannel(socket, channel));
      // Laravel's: the user only on presence channels.
      case "/broadcasting/auth":
        return reply(response, 200, channel.startsWith("presence-")
          ? this.api.authorizeChannel(socket, channel, person)
          : this.api.authorizeChannel(socket, channel));
      // Who the browser's user is: by the name in Pusher's guide, and by the one that Echo asks for.
      case "/user-auth":
      case "/broadcasting/user-auth":
        return reply(response, 200, this.api.authenticateUser(socket, user));
      // And what goes wrong in practice.
      case "/wrong-secret/auth":
        return reply(response, 200, stranger(this.api).authorizeChannel(socket, channel, person));
      case "/wrong-channel/auth":
        return reply(response, 200, this.api.authorizeChannel(socket, `${channel}-other`, person));
      case "/wrong-socket/auth":
        return reply(response, 200, this.api.authorizeChannel("1.1", channel, person));
      case "/tampered/auth": {
        const answer = this.api.authorizeChannel(socket, channel, person);
        answer.channel_data = answer.channel_data.replace(person.user_id, "eve");
        return reply(response, 200, answer);
      }
      case "/wrong-secret/user-auth":
        return reply(response, 200, stranger(this.api).authenticateUser(socket, user));
      case "/wrong-socket/user-auth":
        return reply(response, 200, this.api.authenticateUser("1.1", user));
      case "/tampered/user-auth": {
        const answer = this.api.authenticateUser(socket, user);
        answer.user_data = answer.user_data.replace(user.id, "eve");
        return reply(response, 200, answer);
      }
      default:
        return reply(response, 403, { error: "forbidden" });
    }
  }

  // What Laravel's `broadcast(...)->toOthers()` does with the header that Echo adds.
  async broadcast(request, response, { channel, event, data }) {
    const socket_id = request.headers["x-socket-id"];
    await this.api.trigger(channel, event, data, socket_id ? { socket_id } : {});
    reply(response, 200, {});
  }
}

function stranger(api) {
  const { appId, token, host, port } = api.config;
  return new PusherServer({ appId, key: token.key, secret: "somebody-elses", host, port });
}

function reply(response, status, body) {
  response.writeHead(status, {
    "Content-Type": "application/json",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "*",
  });
  response.end(body === undefined ? undefined : JSON.stringify(body));
}

async function text(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf8");
}
