// Search in pages that are opened from a folder: browsers start no worker there, so a hidden frame takes its place.
if (location.protocol === "file:") {
  window.IFrameWorker = class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      this.inner = this.frame.contentWindow;
      window.addEventListener("message", (event) => {
        if (event.source !== this.inner) return;
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      });
      this.ready = new Promise((resolve) => this.frame.addEventListener("load", resolve, { once: true }));
      const page = this.inner.document;
      page.open();
      page.write(
        "<html><body><script>" +
          'var toParent = parent; postMessage = function (data) { ' +
          'toParent.dispatchEvent(new MessageEvent("message", { data: data, source: window })); };' +
          "</" + "script><script src=\"" + url + "\"></" + "script></body></html>",
      );
      page.close();
    }

    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
