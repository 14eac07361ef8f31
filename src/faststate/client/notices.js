// @ts-check
/**
 * What the page tells its person by itself: the message of a refusal, and a badge while the page is not live.
 * Their style is in a cascade layer, so that any rule of the app's stylesheet for `.faststate-toast` or
 * `.faststate-badge` wins, but for what hides them. A constructed stylesheet is allowed by a strict Content-Security-Policy; a style attribute or
 * element would not be.
 */

const STYLE = `
@layer faststate {
  .faststate-toast, .faststate-badge {
    position: fixed; z-index: 9999; left: 50%; transform: translateX(-50%);
    width: max-content; max-width: min(90vw, 40rem); box-sizing: border-box; margin: 0; border: 0;
    border-radius: .5rem; font: 1rem/1.4 system-ui, sans-serif; box-shadow: 0 2px 12px rgb(0 0 0 / .3);
  }
  .faststate-toast { bottom: 1rem; padding: .75rem 1.25rem; background: #7a1420; color: #fff; cursor: pointer }
  .faststate-badge {
    top: .5rem; padding: .375rem .875rem; font-size: .875rem; color-scheme: light dark;
    display: flex; flex-wrap: wrap; justify-content: center; gap: 0 .75rem;
    background: light-dark(#fff8e1, #3a2f0b); color: light-dark(#4a3500, #ffe9a8);
    border: 1px solid light-dark(#c9a227, #8f7421);
  }
  .faststate-badge button {
    all: unset; text-decoration: underline; cursor: pointer; font-weight: 600;
  }
  .faststate-badge button:focus-visible { outline: 2px solid; outline-offset: 2px }
  .faststate-toast[hidden], .faststate-badge[hidden] { display: none !important }
}`;

/** Milliseconds that a page may be without a stream before its badge says so: most gaps are over by then. */
export const QUIET = 3_000;

/** What the badge says while nothing has come yet, and nothing has failed. */
const LOADING = "This page is still loading…";

/** @type {Record<string, string>} */
const TEXTS = {
  connecting: "Connection lost. Reconnecting…",
  waiting: "Connection lost. Reconnecting…",
  offline: "You are offline. This page does not change until you are back.",
  stale: "This page is no longer up to date.",
};

/** Put the style of the notices into the page. */
export function addStyle() {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLE);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
}

/** Shows one message until it is clicked, or replaced by the next. */
export class Toast {
  /** @type {HTMLElement} */ #element;

  /** @param {() => void} dismiss is called when the person has clicked the message away */
  constructor(dismiss) {
    const element = (this.#element = document.createElement("div"));
    element.className = "faststate-toast";
    element.setAttribute("role", "alert");
    element.hidden = true;
    element.addEventListener("click", dismiss);
    document.documentElement.append(element);
  }

  /** @param {string} message "" to show none */
  show(message) {
    if (!this.#element.isConnected) document.documentElement.append(this.#element);
    this.#element.textContent = message;
    this.#element.hidden = !message;
  }
}

/** Shows the state of the link: as an attribute of the root element at once, and as a badge if it lasts. */
export class Badge {
  /** @type {HTMLElement | null} */ #element = null;
  #text;
  #isNew = true;
  /** @type {any} */ #timer = null;

  /** @param {string | null} text in place of the badge's own for a lost connection; "" for no badge */
  constructor(text) {
    this.#text = text;
  }

  /** @param {import("./link.js").LinkState} state */
  show(state) {
    document.documentElement.dataset.fsLink = state;
    this.#isNew &&= state === "connecting";
    if (state === "live") this.#hide();
    else if (this.#text === "") return;
    else if (this.#element && !this.#element.hidden) this.#fill(state);
    else if (state === "stale" || state === "offline") this.#fill(state);
    else if (this.#timer === null) {
      this.#timer = setTimeout(() => {
        this.#timer = null;
        const now = document.documentElement.dataset.fsLink ?? "live";
        if (now !== "live" && !document.hidden) this.#fill(now);
      }, QUIET);
    }
  }

  /** Show nothing, not even as an attribute, unless something has failed: the page has no link. */
  none() {
    if (!this.#isNew) return;
    this.#hide();
    delete document.documentElement.dataset.fsLink;
  }

  #hide() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#element) this.#element.hidden = true;
  }

  /** @param {string} state */
  #fill(state) {
    let element = this.#element;
    if (!element) {
      element = this.#element = document.createElement("div");
      element.className = "faststate-badge";
      element.setAttribute("role", "status");
    }
    if (!element.isConnected) document.documentElement.append(element);
    element.hidden = false;
    const isLost = state === "waiting" || state === "connecting";
    const own = this.#isNew ? LOADING : (TEXTS[state] ?? "");
    const text = (isLost ? this.#text : null) ?? own;
    // What it says already is not said again, to who hears the page.
    if (element.firstChild?.textContent === text) return;
    element.replaceChildren(text);
    if (state !== "stale") return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Load it again";
    button.addEventListener("click", () => location.reload());
    element.append(button);
  }
}
