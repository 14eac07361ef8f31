// @ts-check
/**
 * What the server has said last of each signal, its *word*. A bound field whose signal differs from its word is *typed*:
 * its person has changed it, and the server has not answered that yet.
 */

/**
 * What the server says of a field, and the version of the state (`<epoch>.<number>`; "" if unknown) that has it.
 * @typedef {{value: any, version: string}} Word
 */

/**
 * Tell whether two values of a signal mean the same: 12, "12.0" and "12" do. Two texts are the same only if they are
 * equal, since "007" is no number to its person.
 * @param {any} a
 * @param {any} b
 * @returns {boolean}
 */
export function same(a, b) {
  if (a === b) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, at) => same(item, b[at]));
  if (typeof a === "string" && typeof b !== "string") [a, b] = [b, a];
  if (typeof b !== "string") return false;
  if (typeof a === "number") return b.trim() !== "" && Number(b) === a;
  return typeof a === "boolean" && String(a) === b;
}

/**
 * True if the version `a` came before `b`. Versions of two epochs cannot be compared: the state was lost in between.
 * @param {string} a
 * @param {string} b
 */
export function isOlder(a, b) {
  const [atA, atB] = [a.lastIndexOf("."), b.lastIndexOf(".")];
  return atA > 0 && a.slice(0, atA) === b.slice(0, atB) && Number(a.slice(atA + 1)) < Number(b.slice(atB + 1));
}

/** @param {any} value */
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** The words of one page, by the paths of their signals ("Doc.title"). */
export class Words {
  /** @type {Map<string, Word>} */
  #words = new Map();

  /** @param {string} path */
  get(path) {
    return this.#words.get(path);
  }

  /**
   * Note a word, unless a newer one is known. Answers and the stream come by ways of their own, in any order.
   * @param {string} path
   * @param {any} value
   * @param {string} version
   */
  note(path, value, version) {
    const known = this.#words.get(path);
    if (known && isOlder(version, known.version)) return;
    this.#words.set(path, {value, version});
  }

  /**
   * Note what a patch of signals says, and return the part that the page may take over: all but its typed fields, and
   * fields of which something newer is known.
   * @param {Record<string, any>} patch
   * @param {(path: string, word: any) => boolean | undefined} isTyped tells whether a bound field is typed, where this
   *   is the word that is known of it; undefined for any other signal
   * @returns {Record<string, any>} the very same patch if the page may take all of it
   */
  take(patch, isTyped) {
    return this.#take(patch, "", isTyped);
  }

  /**
   * @param {Record<string, any>} patch
   * @param {string} prefix
   * @param {(path: string, word: any) => boolean | undefined} isTyped
   * @returns {Record<string, any>}
   */
  #take(patch, prefix, isTyped) {
    const version = typeof patch._version === "string" ? patch._version : "";
    let isWhole = true;
    /** @type {Record<string, any>} */
    const rest = {};
    for (const [name, value] of Object.entries(patch)) {
      const path = prefix + name;
      let given = value;
      if (name === "__proto__") {
        isWhole = false;
        continue;
      }
      if (isObject(value)) given = path === "_fs" ? value : this.#take(value, `${path}.`, isTyped);
      else if (value === null) this.#words.delete(path);
      else if (prefix && !this.#accepts(path, value, version, isTyped)) {
        isWhole = false;
        continue;
      }
      isWhole &&= given === value;
      rest[name] = given;
    }
    return isWhole ? patch : rest;
  }

  /**
   * Note a word of a patch; return whether the page takes it over.
   * @param {string} path
   * @param {any} value
   * @param {string} version
   * @param {(path: string, word: any) => boolean | undefined} isTyped
   */
  #accepts(path, value, version, isTyped) {
    const known = this.#words.get(path);
    const typed = known && isTyped(path, known.value);
    if (typed === undefined) {
      this.#words.set(path, {value, version});
      return true;
    }
    const isNews = !isOlder(version, known?.version ?? "");
    if (isNews) this.#words.set(path, {value, version});
    return isNews && !typed;
  }
}
