// A real browser, Debian's Chromium without a window, and the site whose page it visits. The page is
// of another origin than the server, as customers' pages are, and gets pusher-js from there.

import { createReadStream } from "node:fs";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

import { Inbox } from "./wait.js";

const CHROMIUM = "/usr/bin/chromium";
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const FILES = {
  "/": ["text/html", "./page/index.html"],
  "/page.js": ["text/javascript", "./page/page.js"],
  "/pusher.js": ["text/javascript", "../node_modules/pusher-js/dist/web/pusher.js"],
};

/** The customer's site. */
class Site {
  static async open() {
    const site = new Site();
    site.http = createServer((request, response) => {
      const [type, file] = FILES[new URL(request.url, "http://site").pathname] ?? [];
      if (!file) return response.writeHead(404).end();
      response.writeHead(200, { "Content-Type": `${type}; charset=utf-8` });
      createReadStream(fileURLToPath(new URL(file, import.meta.url))).pipe(response);
    });
    await new Promise((resolve) => site.http.listen(0, "127.0.0.1", resolve));
    site.origin = `http://127.0.0.1:${site.http.address().port}`;
    return site;
  }

  close() {
    this.http.closeAllConnections();
    return new Promise((resolve) => this.http.close(resolve));
  }
}

export class Browser {
  /** Fails where there is no Chromium. Its profile is a new one, and goes with it. */
  static async start() {
    const browser = new Browser();
    browser.site = await Site.open();
    browser.chromium = await chromium.launch({ executablePath: CHROMIUM, headless: true, args: FLAGS });
    return browser;
  }

  async stop() {
    await this.chromium.close();
    await this.site.close();
  }

  /** A page of a visitor of its own that has begun to connect with `options`; see page/page.js. */
  async visit(t, options) {
    const context = await this.chromium.newContext({ viewport: { width: 800, height: 600 } });
    t.after(() => context.close());
    const page = await context.newPage();
    const visit = new Visit();
    Object.assign(visit, { page, inbox: new Inbox(), problems: [], origin: this.site.origin });
    page.on("pageerror", (error) => visit.problems.push(String(error)));
    await page.exposeFunction("report", (item) => visit.inbox.put(item));
    await page.goto(this.site.origin);
    await page.evaluate((given) => start(given), options);
    return visit;
  }
}

/** A page, as the test sees it. */
class Visit {
  next(name, ms) {
    return this.inbox.next(name, ms);
  }

  /** Returns the socket's id. */
  async connected(ms) {
    return (await this.next("connected", ms)).data;
  }

  /** Subscribes and waits for the server's word. Returns the members, if it has them. */
  async join(name) {
    await this.page.evaluate((channel) => join(channel), name);
    return (await this.next("pusher:subscription_succeeded")).data;
  }

  say(channel, event, data) {
    return this.page.evaluate((all) => say(...all), [channel, event, data]);
  }

  shown(id) {
    return this.page.textContent(`#${id}`);
  }

  close() {
    return this.page.close();
  }
}
