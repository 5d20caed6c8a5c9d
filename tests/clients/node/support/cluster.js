// Three nodes of the real binary that a Redis of their own joins, each with a backend that asks it.

import { APP, Fanfare } from "./fanfare.js";
import { Redis } from "./redis.js";
import { World } from "./world.js";

export class Cluster {
  /** `env`: what the nodes are told beyond which engine joins them. */
  static async start({ env } = {}) {
    const cluster = new Cluster();
    cluster.redis = await Redis.start();
    const all = { FANFARE_CLUSTER__ENGINE: "redis", FANFARE_CLUSTER__URL: cluster.redis.url, ...env };
    const servers = await Promise.all(["A", "B", "C"].map(() => Fanfare.start({ env: all })));
    /** A world for each node. */
    cluster.nodes = await Promise.all(servers.map((server) => World.of(APP, server)));
    cluster.gone = new Set();
    return cluster;
  }

  /** Ends a node without a word to anybody. Its backend goes on: it would be elsewhere. */
  async kill(node) {
    this.gone.add(node);
    await node.server.kill();
  }

  /** Stops a node as its operator does. */
  async drain(node) {
    this.gone.add(node);
    await node.server.stop();
  }

  /** What each node is for another app. */
  beside(t, app) {
    return Promise.all(this.nodes.map((node) => node.beside(t, app)));
  }

  async stop() {
    await Promise.all(this.nodes.map((node) => (this.gone.has(node) ? node.backend.stop() : node.stop())));
    await this.redis.stop();
  }
}
