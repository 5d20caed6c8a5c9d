// What a customer's page does, told what to do by the test: shows what happens, and reports it.
// `report(what)` is the test's.

const show = (id, text) => {
  document.getElementById(id).textContent = text;
};

let pusher;

/** Loads pusher-js, as a page does, and connects. */
async function start({ key, webSocket, ...options }) {
  if (!webSocket) delete window.WebSocket;
  show("websocket", webSocket ? "there" : "removed");
  show("transport", options.enabledTransports.join(", "));
  await new Promise((resolve, reject) => {
    const script = document.createElement("script");
    Object.assign(script, { src: "/pusher.js", onload: resolve, onerror: reject });
    document.head.append(script);
  });
  pusher = new Pusher(key, options);
  show("state", pusher.connection.state);
  pusher.connection.bind("state_change", ({ current }) => {
    show("state", current);
    show("socket", pusher.connection.socket_id ?? "");
    report({ name: current, data: pusher.connection.socket_id });
  });
  pusher.connection.bind("error", ({ error, data }) => report({ name: "error", data: error?.data ?? data }));
}

/** Subscribes, and reports whatever comes. */
function join(name) {
  const channel = pusher.subscribe(name);
  const members = () => channel.members && Object.keys(channel.members.members).sort();
  channel.bind_global((event, data) => {
    if (channel.members) show("members", members().join(", "));
    show("channels", pusher.allChannels().map((each) => each.name).join(", "));
    const text = JSON.stringify(data) ?? "";
    const line = document.createElement("li");
    line.textContent = `${event} ${text.length > 60 ? `${text.slice(0, 60)}… (${text.length})` : text}`;
    document.getElementById("received").append(line);
    const list = event === "pusher:subscription_succeeded" ? members() : undefined;
    report({ name: event, data: list ?? data });
  });
}

function say(channel, event, data) {
  return pusher.channel(channel).trigger(event, data);
}
