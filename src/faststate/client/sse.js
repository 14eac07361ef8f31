// @ts-check
/**
 * Server-sent events, read from the bytes of a response.
 * The format is https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */

/**
 * One event: its type, and its data with the lines joined by "\n".
 * @typedef {{event: string, data: string}} SSEEvent
 */

/** Reads events from chunks of bytes that may be cut anywhere. */
export class EventReader {
  #decoder = new TextDecoder();
  #rest = "";
  #event = "";
  #id = "";
  /** @type {string[]} */
  #data = [];
  /** @type {(event: SSEEvent) => void} */
  #take;

  /** @param {(event: SSEEvent) => void} take is given each event as soon as it is whole */
  constructor(take) {
    this.#take = take;
    /** The id of the last event that arrived whole: where the stream goes on after a cut. */
    this.lastId = "";
  }

  /** @param {Uint8Array} bytes */
  push(bytes) {
    // A "\r" at the end may be the first half of a line end.
    const lines = (this.#rest + this.#decoder.decode(bytes, {stream: true})).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#line(line);
  }

  /** @param {string} line */
  #line(line) {
    if (line === "") {
      const whole = {event: this.#event, data: this.#data.join("\n")};
      if (this.#id) this.lastId = this.#id;
      this.#event = this.#id = "";
      this.#data = [];
      if (whole.event || whole.data) this.#take(whole);
      return;
    }
    const at = line.indexOf(":");
    if (at === 0) return; // a comment: a sign of life
    const field = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? "" : line.slice(line[at + 1] === " " ? at + 2 : at + 1);
    if (field === "event") this.#event = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id") this.#id = value;
  }
}

/**
 * Say whether a response with these headers has events. The text of any other is not to be read as such.
 * @param {Headers} headers
 */
export function hasEvents(headers) {
  return (headers.get("content-type") ?? "").startsWith("text/event-stream");
}

/**
 * Read a response to its end.
 * @param {Response} response
 * @param {(event: SSEEvent) => void} take
 */
export async function readEvents(response, take) {
  const reader = response.body?.getReader();
  const events = new EventReader(take);
  for (;;) {
    const {done, value} = (await reader?.read()) ?? {done: true, value: undefined};
    if (done || !value) return;
    events.push(value);
  }
}
