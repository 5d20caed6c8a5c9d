// Waiting for things to happen, each with a deadline. Nothing in these suites sleeps.

export const DEADLINE = 30_000;

/** Settles as `promise` does, or fails once `ms` have passed, saying what was awaited. */
export function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Everything that was bound to it, in the order it happened. */
export class Inbox {
  constructor() {
    this.items = [];
    this.wake = null;
  }

  /** Collects events called `names` from a pusher-js channel, connection, client or user. */
  bind(emitter, ...names) {
    for (const name of names) {
      emitter.bind(name, (data, metadata) => this.put({ name, data, metadata }));
    }
    return this;
  }

  put(item) {
    this.items.push(item);
    this.wake?.();
  }

  /** The next item, in order; it must be called `name` when a name is given. */
  async next(name, ms = DEADLINE) {
    if (this.items.length === 0) {
      await within(ms, name ?? "the next event", new Promise((resolve) => {
        this.wake = resolve;
      }));
      this.wake = null;
    }
    const item = this.items.shift();
    if (name !== undefined && item.name !== name) {
      throw new Error(`expected ${name}, got ${JSON.stringify(item)}`);
    }
    return item;
  }

  /** The next `count` items. */
  async take(count, ms = DEADLINE) {
    const taken = [];
    while (taken.length < count) taken.push(await this.next(undefined, ms));
    return taken;
  }
}
