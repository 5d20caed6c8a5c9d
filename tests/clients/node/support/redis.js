// A redis-server of the tests' own, which keeps nothing on disk: started on loopback, known to be
// ready by the line it prints, ended by its own pid.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { freePort } from "./ports.js";
import { within } from "./wait.js";

const DEADLINE = 20_000;
/** An address of its own, so that nothing else takes the port before Redis does. */
const HOST = "127.0.77.6";

export class Redis {
  /** Fails where it is not installed. */
  static async start() {
    const redis = new Redis();
    redis.folder = mkdtempSync(join(tmpdir(), "fanfare-redis-"));
    const port = await freePort(HOST);
    redis.url = `redis://${HOST}:${port}`;
    const flags = ["--bind", HOST, "--port", String(port), "--dir", redis.folder, "--save", "", "--appendonly", "no"];
    const program = process.env.FANFARE_REDIS_SERVER ?? "redis-server";
    redis.child = spawn(program, flags, { stdio: ["ignore", "pipe", "inherit"] });
    redis.exited = new Promise((resolve) => {
      redis.child.once("error", (error) => resolve(String(error)));
      redis.child.once("exit", (code, signal) => resolve(`${program} ended: ${code ?? signal}`));
    });
    redis.killOnExit = () => redis.child.kill("SIGKILL");
    process.once("exit", redis.killOnExit);
    const lines = [];
    const ready = new Promise((resolve) => {
      createInterface({ input: redis.child.stdout }).on("line", (line) => {
        if (lines.length < 100) lines.push(line);
        if (line.includes("Ready to accept connections")) resolve();
      });
    });
    await within(DEADLINE, "Redis to listen", Promise.race([
      ready,
      redis.exited.then((end) => {
        throw new Error(`${end}\n${lines.join("\n")}`);
      }),
    ]));
    return redis;
  }

  async stop() {
    this.child.kill("SIGTERM");
    await within(DEADLINE, "Redis to end", this.exited);
    process.removeListener("exit", this.killOnExit);
    rmSync(this.folder, { recursive: true, force: true });
  }
}
