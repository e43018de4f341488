// Requests to the server that this page comes from. The key is kept for the tab, never in an address.

const KEY = "moee-index key";

export class Refused extends Error {
  constructor(status, message, code, wait) {
    super(message);
    this.status = status;
    this.code = code;
    this.wait = wait;
  }
}

let askForKey = async () => null;

// How a key is asked for: a function that gives one, or null.
export function onKeyNeeded(ask) {
  askForKey = ask;
}

export async function get(path, signal) {
  return ask(path, { signal });
}

export async function post(path, body, signal) {
  return ask(path, { method: "POST", body: JSON.stringify(body), signal });
}

async function ask(path, options) {
  for (;;) {
    const headers = options.body === undefined ? {} : { "Content-Type": "application/json" };
    const key = sessionStorage.getItem(KEY);
    if (key) headers.Authorization = `Bearer ${key}`;
    let answer;
    try {
      answer = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "The server does not answer. Is it still running?", "unreachable", null);
    }
    if (answer.ok) return answer.json();
    const refusal = await refused(answer);
    if (refusal.status !== 401) throw refusal;
    // Another request may have been given a key meanwhile.
    if (sessionStorage.getItem(KEY) === key) {
      const given = await askForKey(key !== null);
      if (given === null) throw refusal;
      sessionStorage.setItem(KEY, given);
    }
  }
}

async function refused(answer) {
  const wait = Number(answer.headers.get("Retry-After")) || null;
  try {
    const { error } = await answer.json();
    return new Refused(answer.status, error.message, error.code, wait);
  } catch {
    return new Refused(answer.status, `The server answered ${answer.status}.`, null, wait);
  }
}

export const indexPath = (name, rest) => `/v1/indexes/${encodeURIComponent(name)}/${rest}`;
