// The balancer in front of several servers: a TCP relay whose new connections go to whichever
// server it currently leads to.

import { connect, createServer } from "node:net";

export class Entrance {
  static async open(server) {
    const entrance = new Entrance();
    entrance.lead(server);
    entrance.sockets = new Set();
    entrance.listener = createServer((near) => {
      const far = connect(entrance.server.port, entrance.server.host);
      for (const [socket, other] of [[near, far], [far, near]]) {
        entrance.sockets.add(socket);
        socket.pipe(other);
        socket.on("error", () => other.destroy());
        socket.on("close", () => entrance.sockets.delete(socket));
      }
    });
    await new Promise((resolve) => entrance.listener.listen(0, "127.0.0.1", resolve));
    ({ address: entrance.host, port: entrance.port } = entrance.listener.address());
    return entrance;
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
