import { createServer } from "node:net";

/**
 * A port that nobody listens on, for a program that cannot choose one itself. Only on an address of
 * the caller's own is it sure that nothing else takes it before that program does.
 */
export async function freePort(host) {
  const listener = createServer();
  await new Promise((resolve) => listener.listen(0, host, resolve));
  const { port } = listener.address();
  await new Promise((resolve) => listener.close(resolve));
  return port;
}
