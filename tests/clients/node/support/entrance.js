// The balancer in front of several servers: a TCP relay whose new connections go to whichever
// server it currently leads to. It notes the requests that come through, and can be of the kind
// that lets no WebSocket pass.

import { connect, createServer } from "node:net";
import { Transform } from "node:stream";

import { Inbox } from "./wait.js";

const REQUEST = /^([A-Z]+) (\S+) HTTP\/1\.1\r\n/;
const UPGRADE = /^upgrade: *websocket\r$/im;
const REFUSAL = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

export class Entrance {
  /** `upgrades`: whether WebSockets get through. */
  static async open(server, { upgrades = true } = {}) {
    const entrance = new Entrance();
    entrance.lead(server);
    entrance.sockets = new Set();
    /** Each request by its method, with path, query and whether it was refused. */
    entrance.requests = new Inbox();
    entrance.listener = createServer((near) => {
      const far = connect(entrance.server.port, entrance.server.host);
      for (const [socket, other] of [[near, far], [far, near]]) {
        entrance.sockets.add(socket);
        socket.on("error", () => other.destroy());
        socket.on("close", () => entrance.sockets.delete(socket));
      }
      near.pipe(entrance.gate(upgrades, near, far)).pipe(far);
      far.pipe(near);
    });
    await new Promise((resolve) => entrance.listener.listen(0, "127.0.0.1", resolve));
    ({ address: entrance.host, port: entrance.port } = entrance.listener.address());
    return entrance;
  }

  // Clients send a request's head in one piece, and never one request before the last one's reply.
  gate(upgrades, near, far) {
    return new Transform({
      transform: (chunk, _, next) => {
        const text = chunk.toString("latin1");
        const [, name, target] = text.match(REQUEST) ?? [];
        const refused = name !== undefined && !upgrades && UPGRADE.test(text);
        if (name) {
          const { pathname: path, searchParams: query } = new URL(target, "http://entrance");
          this.requests.put({ name, path, query, refused });
        }
        if (!refused) return next(null, chunk);
        near.end(REFUSAL);
        far.destroy();
      },
    });
  }

  /** Passes on nothing that the server sends, as a link that has stalled. */
  stall() {
    for (const socket of this.sockets) if (socket.remotePort === this.server.port) socket.pause();
  }

  resume() {
    for (const socket of this.sockets) socket.resume();
  }

  lead(server) {
    this.server = server;
  }

  close() {
    for (const socket of this.sockets) socket.destroy();
    return new Promise((resolve) => this.listener.close(resolve));
  }
}
