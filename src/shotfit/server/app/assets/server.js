// Questions to the server. Addresses are relative: the page's own has the token.

export class Gone extends Error {}

/** Post an object (or a picture's bytes) and give the answer. Throws an Error with the server's sentence, or Gone. */
export async function ask(action, said = {}) {
  const body = said instanceof Blob ? said : JSON.stringify(said);
  return answered(() => fetch(`api/${action}`, { method: "POST", body }));
}

export async function state() {
  return answered(() => fetch("api/state"));
}

async function answered(asked) {
  let response;
  try {
    response = await asked();
  } catch {
    throw new Gone("The server does not answer.");
  }
  const said = await response.json().catch(() => ({ error: `The server failed (${response.status}).` }));
  if (!response.ok) throw response.status === 403 ? new Gone(said.error) : new Error(said.error);
  return said;
}

/** What changes, while the page is seen: hidden ones give their connection back. */
export function events(heard, alive) {
  let source = null;
  const listen = () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (!source || source.readyState === EventSource.CLOSED) {
      source = new EventSource("api/events");
      source.onopen = () => alive(true);
      source.onerror = () => alive(false);
      source.onmessage = (event) => heard(JSON.parse(event.data));
    }
  };
  document.addEventListener("visibilitychange", listen);
  setInterval(listen, 3000); // after a server that ended and began again
  listen();
}
