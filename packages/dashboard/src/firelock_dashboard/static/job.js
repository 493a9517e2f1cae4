// A job's page: updates its log and stream.
"use strict";

{
  const state = (within) => within.querySelector(".badge")?.className.match(/state-(\w+)/)?.[1];

  document.addEventListener("click", (event) => {
    const later = event.target.closest?.("[data-reschedule]");
    if (!later) return;
    const dialog = document.getElementById("reschedule");
    if (!dialog) return;
    event.preventDefault();
    dialog.querySelector("[name=one]").value = later.dataset.reschedule;
    dialog.showModal();
  });

  document.addEventListener("click", (event) => {
    const move = event.target.closest?.("[data-move]");
    if (move && document.getElementById("move")) {
      event.preventDefault();
      firelock.openMove([move.dataset.move]);
    }
  });

  // ---- the log ------------------------------------------------------------------------------------------------

  const log = document.querySelector("[data-log]");
  if (log) {
    const RANKS = { debug: 0, info: 1, warning: 2, error: 3, critical: 4 };
    const level = document.querySelector("[data-log-level]");
    const words = document.querySelector("[data-log-text]");
    const none = document.querySelector(".log-none");
    const wrap = document.querySelector("[data-log-wrap]");
    const LINES = 5000;

    const sift = (lines) => {
      const least = RANKS[level.value] ?? -1;
      const wanted = words.value.trim().toLowerCase();
      for (const line of lines) {
        line.hidden = (RANKS[line.dataset.level] ?? 1) < least || (wanted && !line.textContent.toLowerCase().includes(wanted));
      }
    };
    level.addEventListener("change", () => sift(log.children));
    words.addEventListener("input", () => sift(log.children));
    wrap.addEventListener("click", () => wrap.setAttribute("aria-pressed", String(log.classList.toggle("is-wrapped"))));
    document.querySelector("[data-log-copy]").addEventListener("click", () => {
      const lines = [...log.children].filter((line) => !line.hidden).map((line) => [...line.children].map((part) => part.textContent).join(" "));
      navigator.clipboard?.writeText(lines.join("\n")).then(() => firelock.toast("Copied."));
    });

    const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    const toEnd = () => { log.scrollTop = log.scrollHeight; };
    let busy = false;
    let isOver = "isOver" in log.dataset;
    const more = async () => {
      if (busy || document.hidden || firelock.isPaused()) return;
      busy = true;
      try {
        const to = new URL(log.dataset.log, location.href);
        to.searchParams.set("part", "log");
        to.searchParams.set("after", log.lastElementChild?.dataset.number || "0");
        const response = await fetch(to, { credentials: "same-origin", cache: "no-store" });
        if (response.status !== 200) return;
        const page = new DOMParser().parseFromString(`<ol>${await response.text()}</ol>`, "text/html");
        const lines = [...page.querySelectorAll("li[data-number]")].filter((line) => !document.getElementById(line.id));
        if (!lines.length) return;
        const follows = isAtEnd();
        const day = (line) => line?.querySelector("time").dateTime.slice(0, 10);
        if (day(lines[0]) === day(log.lastElementChild)) delete lines[0].dataset.day;
        sift(lines);
        log.append(...lines);
        while (log.children.length > LINES) log.firstElementChild.remove();
        none.hidden = true;
        log.hidden = false;
        if (follows) toEnd();
      } catch { /* the next poll tries again */ } finally { busy = false; }
    };
    toEnd();
    setInterval(() => { if (!isOver) more(); }, 2000);
    document.getElementById("region-head").addEventListener("firelock:swapped", () => {
      const now = state(document.getElementById("region-head"));
      const ended = ["succeeded", "failed", "deleted"].includes(now);
      if (ended && !isOver) setTimeout(() => { more(); isOver = true; }, 3000);
      else if (!ended) isOver = false;
    });
  }

  // ---- the stream ---------------------------------------------------------------------------------------------
  // The stream is read like the log, every two seconds until the job has ended; before the first output,
  // every ten seconds.

  const stream = document.querySelector("[data-stream]");
  if (stream) {
    const card = stream.closest(".card");
    const CHARACTERS = 512 * 1024;
    let busy = false;
    let isOver = "isOver" in stream.dataset;
    let beat = 0;
    const isAtEnd = () => stream.scrollHeight - stream.scrollTop - stream.clientHeight < 40;
    const mark = () => {
      let run = null;
      for (const piece of stream.children) {
        piece.classList.toggle("is-next-run", run !== null && piece.dataset.run !== run);
        run = piece.dataset.run;
      }
    };
    const more = async () => {
      if (busy || document.hidden || firelock.isPaused()) return;
      busy = true;
      try {
        const to = new URL(stream.dataset.stream, location.href);
        to.searchParams.set("part", "stream");
        to.searchParams.set("offset", stream.lastElementChild?.dataset.offset ?? "-1");
        const response = await fetch(to, { credentials: "same-origin", cache: "no-store" });
        if (response.status !== 200) return;
        const page = new DOMParser().parseFromString(`<pre>${await response.text()}</pre>`, "text/html");
        const last = BigInt(stream.lastElementChild?.dataset.offset ?? -1);
        const pieces = [...page.querySelectorAll("[data-offset]")].filter((piece) => BigInt(piece.dataset.offset) > last);
        if (!pieces.length) return;
        const follows = isAtEnd();
        stream.append(...pieces);
        while (stream.children.length > 1 && stream.textContent.length > CHARACTERS) {
          stream.firstElementChild.remove();
          card.querySelector("[data-stream-cut]").hidden = false;
        }
        mark();
        card.hidden = stream.hidden = false;
        card.querySelector(".log-none").hidden = true;
        document.querySelector("[data-stream-open]")?.remove();
        if (follows) stream.scrollTop = stream.scrollHeight;
      } catch { /* the next poll tries again */ } finally { busy = false; }
    };
    mark();
    if (!new URL(location.href).searchParams.has("offset")) stream.scrollTop = stream.scrollHeight;
    setInterval(() => {
      beat += 1;
      if (!isOver && (stream.children.length || beat % 5 === 0)) more();
    }, 2000);
    document.getElementById("region-head").addEventListener("firelock:swapped", () => {
      const now = state(document.getElementById("region-head"));
      const ended = ["succeeded", "failed", "deleted"].includes(now);
      if (ended && !isOver) setTimeout(() => { more(); isOver = true; }, 3000);
      else if (!ended && !("isOver" in stream.dataset)) isOver = false;
    });
  }
}
