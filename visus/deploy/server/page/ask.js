// Questions to the server: one place for the key, for waiting when it is busy, and for errors in words.

const MOST_TRIES = 6;
const LONGEST_WAIT_S = 30;
let key = null;

export class Refused extends Error {
  constructor(status, about) {
    super(about.problem);
    this.status = status;
    this.problem = about.problem;
    this.remedy = about.remedy || "";
    this.id = about.id || "";
  }
}

export function useKey(value) { key = value; }

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(done, 1000 * seconds);
    function done() { signal?.removeEventListener("abort", stop); resolve(); }
    function stop() { clearTimeout(timer); reject(signal.reason); }
    signal?.addEventListener("abort", stop, { once: true });
  });
}

async function refusal(response) {
  let about = null;
  try { about = (await response.json()).error; } catch { /* not JSON: a proxy's page */ }
  if (typeof about === "string") about = { problem: about };
  return new Refused(response.status, about && about.problem ? about : {
    problem: `The server answered ${response.status}`, remedy: "Try again, or ask its operator" });
}

// `path`, relative to the page. body: a File or Blob, or null. waiting(seconds): told before a pause.
export async function ask(path, { body = null, signal, waiting } = {}) {
  for (let tries = 1; ; tries += 1) {
    const headers = {};
    if (key) headers.Authorization = `Bearer ${key}`;
    let sent;
    if (body) {
      sent = new FormData();
      sent.append("file", body, body.name || "picture");
    }
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", body: sent, headers, signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError" || signal?.aborted) throw error;
      throw new Refused(0, { problem: "The server cannot be reached", remedy: "Look whether it still runs, then try again" });
    }
    if (response.ok) return response.json();
    if ((response.status === 429 || response.status === 503) && tries < MOST_TRIES) {
      const said = Number(response.headers.get("Retry-After"));
      const seconds = Math.min(LONGEST_WAIT_S, Math.max(0.3, Number.isFinite(said) && said > 0 ? said : tries)) * (0.8 + 0.4 * Math.random());
      waiting?.(seconds);
      await response.body?.cancel();
      await pause(seconds, signal);
      continue;
    }
    throw await refusal(response);
  }
}
