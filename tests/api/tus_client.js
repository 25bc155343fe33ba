// A peer that others made: tus-js-client, as the pages have it, uploads a file while its network fails.
// node tus_client.js LIBRARY FILE ENDPOINT PIECE_BYTES

globalThis.window = { XMLHttpRequest: class {}, Blob, File: class {} };
const fs = require("node:fs");
const [library, path, endpoint, pieceBytes] = process.argv.slice(2);
const tus = require(library);
let patches = 0;

/** Requests by fetch, of which some fail: before they are sent, or after the server has heard them. */
class Stack {
  createRequest(method, url) {
    const headers = {};
    return {
      getMethod: () => method,
      getURL: () => url,
      setHeader: (name, value) => (headers[name] = value),
      getHeader: (name) => headers[name],
      setProgressHandler: () => {},
      abort: async () => {},
      getUnderlyingObject: () => null,
      send: async (body) => {
        const number = method === "PATCH" ? ++patches : 0;
        if (number === 2) throw new Error("no network");
        const answer = await fetch(url, { method, headers, body: body ?? undefined });
        const text = await answer.text();
        if (number === 4) throw new Error("the answer is lost");
        return {
          getStatus: () => answer.status,
          getHeader: (name) => answer.headers.get(name) ?? undefined,
          getBody: () => text,
          getUnderlyingObject: () => null,
        };
      },
    };
  }
  getName() {
    return "fetch";
  }
}

const upload = new tus.Upload(new Blob([fs.readFileSync(path)]), {
  endpoint,
  chunkSize: Number(pieceBytes),
  retryDelays: [0, 0, 0],
  metadata: { filename: "brain.h5" },
  storeFingerprintForResuming: false,
  httpStack: new Stack(),
  onError: (error) => {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess: () => console.log(JSON.stringify({ url: upload.url, patches })),
});
upload.start();
