// The proxies of config/deploy: each the real program, started with the file as it is there, only
// with other addresses.

import { spawn } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { createInterface } from "node:readline";

import { freePort } from "./ports.js";
import { within } from "./wait.js";

const DEADLINE = 20_000;
/** An address of its own, so that nothing else takes the port before the proxy does. */
const HOST = "127.0.77.5";

const temporary = (folder) =>
  ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((kind) => `${kind}_temp_path ${folder}/${kind};`).join(" ");

const KINDS = {
  nginx: {
    file: "nginx.conf",
    listen: ["listen 80;", ({ host, port }) => `listen ${host}:${port};`],
    // What Debian's nginx.conf has around it.
    around: (text, folder) => `
      daemon off;
      pid ${folder}/pid;
      error_log stderr notice;
      events {}
      http {
        access_log off;
        ${temporary(folder)}
        ${text}
      }`,
    command: (file, folder) => ["nginx", "-p", folder, "-e", "stderr", "-c", file],
    ready: /start worker process /,
  },
  // Of several nodes, a whole nginx.conf.
  cluster: {
    file: "cluster/nginx.conf",
    listen: ["listen 80;", ({ host, port }) => `listen ${host}:${port};`],
    servers: ["172.30.77.11:6001", "172.30.77.12:6001", "172.30.77.13:6001"],
    around: (text, folder) => `
      daemon off;
      pid ${folder}/pid;
      error_log stderr notice;
      ${replaced(text, {
        // More than the limit of whoever runs the tests.
        "worker_rlimit_nofile 131072;": "",
        "worker_connections 65536;": "",
        "http {": `http { ${temporary(folder)}`,
      })}`,
    command: (file, folder) => ["nginx", "-p", folder, "-e", "stderr", "-c", file],
    ready: /start worker process /,
  },
  haproxy: {
    file: "haproxy.cfg",
    listen: ["bind :80", ({ host, port }) => `bind ${host}:${port}`],
    around: (text) => text,
    command: (file) => ["haproxy", "-W", "-db", "-f", file],
    ready: /Loading success/,
  },
  caddy: {
    file: "Caddyfile",
    listen: ["realtime.example.com {", ({ host, port }) => `http://:${port} {\n\tbind ${host}`],
    around: (text) => `{\n\tadmin off\n}\n${text}`,
    command: (file) => ["caddy", "run", "--adapter", "caddyfile", "--config", file],
    ready: /serving initial configuration/,
  },
};

export class Proxy {
  /** Starts a proxy in front of two servers. Fails where it is not installed. */
  static async start(kind, [one, two]) {
    const {
      file, listen: [placeholder, listen], servers = ["127.0.0.1:6001", "127.0.0.1:6002"], around, command, ready,
    } = KINDS[kind];
    const proxy = new Proxy();
    proxy.folder = mkdtempSync(join(tmpdir(), `fanfare-${kind}-`));
    // nginx's workers are somebody else when it is started by root.
    chmodSync(proxy.folder, 0o755);
    Object.assign(proxy, { host: HOST, port: await freePort(HOST) });
    const text = replaced(readFileSync(new URL(`../../../../config/deploy/${file}`, import.meta.url), "utf8"), {
      [placeholder]: listen(proxy),
      ...Object.fromEntries(servers.map((server, n) => {
        const { host, port } = n === 0 ? one : two;
        return [server, `${host}:${port}`];
      })),
    });
    const config = join(proxy.folder, basename(file));
    writeFileSync(config, around(text, proxy.folder));

    const [program, ...flags] = command(config, proxy.folder);
    proxy.child = spawn(program, flags, {
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        // Where Debian has programs that only root has in its path.
        PATH: `${process.env.PATH}:/usr/sbin`,
        HOME: proxy.folder,
      },
    });
    const exited = new Promise((resolve) => {
      proxy.child.once("error", (error) => resolve(String(error)));
      proxy.child.once("exit", (code, signal) => resolve(`${kind} ended: ${code ?? signal}`));
    });
    proxy.exited = exited;
    proxy.endOnExit = () => proxy.child.kill("SIGTERM");
    process.once("exit", proxy.endOnExit);
    const lines = [];
    const listening = new Promise((resolve) => {
      for (const output of [proxy.child.stdout, proxy.child.stderr]) {
        createInterface({ input: output }).on("line", (line) => {
          if (lines.length < 100) lines.push(line);
          if (ready.test(line)) resolve();
        });
      }
    });
    await within(DEADLINE, `${kind} to listen`, Promise.race([
      listening,
      exited.then((end) => {
        throw new Error(`${end}\n${lines.join("\n")}`);
      }),
    ]));
    return proxy;
  }

  async stop() {
    // Of a master, which ends its workers.
    this.child.kill("SIGTERM");
    await within(DEADLINE, "the proxy to end", this.exited);
    process.removeListener("exit", this.endOnExit);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** The text with every place filled; each of them has to be there. */
function replaced(text, places) {
  for (const [place, value] of Object.entries(places)) {
    if (!text.includes(place)) throw new Error(`no '${place}' in the proxy's configuration`);
    text = text.replaceAll(place, value);
  }
  return text;
}
