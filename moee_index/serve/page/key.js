// The dialog that asks for the server's key.

import { onKeyNeeded } from "./api.js";
import { byId, replace } from "./dom.js";

// One dialog, whoever asks.
let asked = null;

export function askForKeys() {
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("key-dialog").close("given");
  });
  onKeyNeeded((wrong) => (asked ??= ask(wrong)));
}

// wrong: whether a key was refused. Gives null where the dialog is closed without one.
function ask(wrong) {
  const dialog = byId("key-dialog");
  replace(byId("key-note"), wrong ? "The server does not know this key. " : "", "It is kept for this tab alone, and forgotten when the tab is closed.");
  byId("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      asked = null;
      resolve(dialog.returnValue === "given" ? byId("key").value.trim() || null : null);
    }, { once: true });
  });
}
