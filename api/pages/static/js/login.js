// A link from another site comes without the cookie, which is SameSite=Strict; from here it is sent. Somebody who is
// logged in goes on to the page at once.

const { back } = document.getElementById("login").dataset;
const answer = await fetch(back, { redirect: "manual", headers: { Accept: "text/html" } }).catch(() => null);
if (answer?.ok && !document.getElementById("wrong")) location.replace(back);
