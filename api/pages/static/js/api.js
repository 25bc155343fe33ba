// Requests to the API: problem documents become exceptions, a login that has ended leads to the login page, and a
// service that does not answer is told of in one place, until it answers again.

const AWAY = new Set([502, 503, 504]);
const LOOK_AGAIN_MS = 2000;
let looking = false;

/** A problem document (RFC 9457) that the service answered with. */
export class Problem extends Error {
  constructor(document, status) {
    super(document.detail || document.title || `the service answered ${status}`);
    this.document = document;
    this.status = status;
  }
}

/** The service did not answer; the event `service:back` of the document tells when it does. */
export class ServiceAway extends Error {}

/** Ask the API; gives the response. Raises Problem, ServiceAway, or what `signal` aborts with. */
export async function request(path, { method = "GET", body, headers = {}, signal } = {}) {
  const options = { method, headers: { ...headers }, signal, credentials: "same-origin" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tellAway();
    throw new ServiceAway("the service does not answer");
  }
  if (response.ok || response.status === 304) return response;
  throw await problemOf(response);
}

/** The JSON of an answer of the API. */
export async function json(path, options) {
  const response = await request(path, options);
  return response.status === 204 ? null : response.json();
}

async function problemOf(response) {
  let document = {};
  try {
    document = await response.json();
  } catch {
    // An answer of something between, such as a proxy.
  }
  return toProblem(document, response.status);
}

/** What to throw for an answer with this status and JSON body. */
export function toProblem(document, status) {
  if (status === 401) goToLogin();
  if (AWAY.has(status) && !document.errors) tellAway();
  return new Problem(document, status);
}

/** Show the login, and come back to this page after it. */
export function goToLogin() {
  const back = location.pathname + location.search;
  location.assign(`/login?next=${encodeURIComponent(back)}`);
}

/** Tell that the service does not answer, and look until it does. */
export function tellAway() {
  if (looking) return;
  looking = true;
  const notice = document.getElementById("connection");
  if (notice) notice.hidden = false;
  setTimeout(look, LOOK_AGAIN_MS);
}

async function look() {
  try {
    const response = await fetch("/readyz", { cache: "no-store" });
    const { checks } = await response.json();
    if (checks.database !== "ok") throw new Error("the database does not answer");
  } catch {
    setTimeout(look, LOOK_AGAIN_MS);
    return;
  }
  looking = false;
  const notice = document.getElementById("connection");
  if (notice) notice.hidden = true;
  document.dispatchEvent(new CustomEvent("service:back"));
}

/** A problem as an element to show: what is wrong, where, and what would be right. */
export function problemElement(error) {
  const box = document.createElement("div");
  box.className = "notice bad";
  box.setAttribute("role", "alert");
  const title = error instanceof Problem ? error.document.title : null;
  if (title) box.append(paragraph(title, "strong"));
  box.append(paragraph(sentence(error.message)));
  const errors = error instanceof Problem ? error.document.errors || [] : [];
  if (errors.length) {
    const list = document.createElement("ul");
    for (const each of errors) {
      const item = document.createElement("li");
      const field = document.createElement("code");
      field.textContent = each.field;
      item.append(field, `: found ${each.found}; expected ${each.expected}`);
      list.append(item);
    }
    box.append(list);
  }
  return box;
}

function paragraph(text, within) {
  const made = document.createElement("p");
  const inner = within ? made.appendChild(document.createElement(within)) : made;
  inner.textContent = text;
  return made;
}

function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
