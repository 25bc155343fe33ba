// What every page does: parts that htmx refreshes tell of a service that is away, and try again once it is back.

import { tellAway } from "./api.js";

for (const name of ["htmx:error", "htmx:response:error"]) {
  document.addEventListener(name, (event) => {
    const status = event.detail?.ctx?.response?.status;
    if (status === undefined || status >= 502) tellAway();
  });
}
