// Laravel Echo in the hands of a test: made as an application makes it, and what it reports.

import Echo from "laravel-echo";
import Pusher from "pusher-js";

import { Inbox } from "./wait.js";
import { connected } from "./world.js";

/** Echo as an application's bootstrap file makes it, connected; closed when the test `t` ends. */
export async function openEcho(t, world, {
  as = "ada", authEndpoint = "/broadcasting/auth", userAuth = "/broadcasting/user-auth", ...options
} = {}) {
  const made = new Echo({
    broadcaster: "pusher",
    Pusher,
    key: world.app.key,
    cluster: "",
    wsHost: world.server.host,
    wsPort: world.server.port,
    wssPort: world.server.port,
    forceTLS: false,
    enabledTransports: ["ws"],
    authEndpoint: world.backend.url + authEndpoint,
    auth: { headers: { "X-Person": as } },
    userAuthentication: { endpoint: world.backend.url + userAuth, headers: { "X-Person": as } },
    // Several browsers live in this one process: only one of them may hook into axios.
    withoutInterceptors: true,
    ...options,
  });
  t.after(() => made.disconnect());
  await connected(made.connector.pusher);
  return made;
}

/** Collects what the listed Echo methods report. */
export function hear(inbox, channel, listeners) {
  for (const [method, event] of listeners) {
    const put = (data) => inbox.put({ name: event ?? method, data });
    if (event === undefined) channel[method](put);
    else channel[method](event, put);
  }
  return inbox;
}

/** Waits for the server's word; returns the channel. */
export async function joined(channel) {
  const inbox = hear(new Inbox(), channel, [["subscribed"]]);
  await inbox.next("subscribed");
  return channel;
}
