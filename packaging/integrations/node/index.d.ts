/** As in styxy-allocate(1). */
export interface PortOptions {
  /** The class of service. Default: `test`. */
  type?: string;
  /** What the port is for. The same name gets the same port again, if that is free. */
  name?: string;
  /** Leases this many consecutive ports: what is returned is a list. */
  count?: number;
  protocol?: "tcp" | "udp" | "both";
  /** `none` for a server that does not set SO_REUSEADDR. Node.js sets it. */
  hold?: "guard" | "none";
}

type Granted<Options> = Options extends { count: number } ? number[] : number;

/** What styxy refused, in its own words. */
export class StyxyError extends Error {}

/** Leases a port until it is released or this process ends. */
export function port<Options extends PortOptions = {}>(options?: Options): Granted<Options>;

/** Releases what `port` has returned. */
export function release(granted: number | number[]): void;

/** A fixture for `test.extend` of vitest and Playwright: a port for each test that uses it. */
export function styxyPort<Options extends PortOptions = {}>(
  options?: Options,
): (fixtures: {}, use: (granted: Granted<Options>) => Promise<void>) => Promise<void>;

/** A globalSetup for vitest: a port for each key, which `inject(key)` returns in all tests of a run. */
export function provide(services: Record<string, PortOptions>): (project: {
  provide(key: any, value: any): void;
}) => () => void;

/** A configuration for Playwright: the server, which gets its port in PORT, and `use.baseURL`. Workers share both. */
export function webServer<const Options extends { command: string; env?: Record<string, string> }>(
  options: Options & {
    type?: string;
    /** Tells several servers of one configuration apart. Default: `web`. */
    name?: string;
    hold?: "guard" | "none";
    /** A path that answers once the server is ready. Default: it is ready as soon as it listens. */
    url?: string;
  },
): {
  use: { baseURL: string };
  webServer: Omit<Options, "type" | "name" | "hold" | "url"> & {
    port?: number;
    url?: string;
    env: Record<string, string>;
  };
};
