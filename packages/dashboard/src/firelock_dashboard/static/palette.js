// The command palette (Ctrl K) and the single-key shortcuts, which the settings can switch off.
"use strict";

{
  const palette = document.getElementById("palette");
  const sheet = document.getElementById("shortcuts");
  const input = document.getElementById("palette-input");
  const found = document.getElementById("palette-found");
  const status = document.getElementById("palette-status");
  const options = () => [...palette.querySelectorAll("[role=option]")];
  const isId = (text) => /^[0-9a-f]{8}-[0-9a-f-]{4,27}$/i.test(text);
  let chosen = null;

  const choose = (option) => {
    chosen?.removeAttribute("aria-selected");
    chosen = option;
    if (option) {
      option.setAttribute("aria-selected", "true");
      option.scrollIntoView({ block: "nearest" });
      input.setAttribute("aria-activedescendant", option.id);
    } else input.removeAttribute("aria-activedescendant");
  };
  const shown = () => options().filter((option) => !option.hidden);
  const isFound = (option) => found.contains(option);

  // ---- search results: tags, jobs, batches, tasks, queues, limit keys … ----------------------------------------
  // Requested when the visitor pauses typing. Earlier results are removed immediately, so that Enter never opens a
  // result for another text. Results with an exact match are above the pages, others below them.

  let pending = null; // { typed, done: a promise, abort, timer }
  const requestResults = (typed) => {
    pending?.abort.abort();
    clearTimeout(pending?.timer);
    found.replaceChildren();
    place();
    status.textContent = "";
    if (!typed) { pending = null; return; }
    const one = (pending = { typed, abort: new AbortController() });
    one.done = new Promise((done) => {
      one.begin = async () => {
        clearTimeout(one.timer);
        if (one.isBegun) return;
        one.isBegun = true;
        try {
          const address = `${palette.dataset.search}?${new URLSearchParams({ q: typed, part: "options" })}`;
          const response = await fetch(address, { credentials: "same-origin", signal: one.abort.signal });
          if (response.ok && one === pending) take(await response.text());
        } catch { /* the shown options still work */ }
        if (one === pending) pending = null;
        done();
      };
    });
    one.timer = setTimeout(one.begin, 150);
  };
  const take = (text) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    found.replaceChildren(...page.body.children);
    place();
    const search = document.getElementById("palette-search"); // this link opens the same jobs as the tag
    if (found.querySelector("[data-exact][data-tag]")) search.hidden = true;
    const count = options().filter(isFound).length;
    status.textContent = status.dataset.text.replace("{count}", count);
    palette.querySelector(".nothing").hidden ||= count > 0;
    if (!hasMoved) chooseBest();
  };
  const place = () => {
    if (found.querySelector("[data-exact]")) found.parentElement.prepend(found);
    else found.parentElement.append(found);
  };
  // Enter opens the option with exactly this name, otherwise a page, otherwise a match by name. Options that only
  // contain the text must be selected with the arrow keys.
  let hasMoved = false;
  const isPage = (option) => !option.dataset.kind && !isFound(option);
  const isWhole = (option) => {
    const typed = input.value.trim().toLowerCase();
    return typed && option && isPage(option) && option.querySelector("span").textContent.toLowerCase() === typed;
  };
  const chooseBest = () => {
    const all = shown();
    choose(
      all.find(isWhole) ||
      all.find((option) => "exact" in option.dataset) ||
      all.find(isPage) ||
      all.find((option) => option.dataset.kind === "job") ||
      all.find((option) => "called" in option.dataset) || all[0] || null,
    );
  };

  const narrow = () => {
    const typed = input.value.trim();
    const words = typed.toLowerCase().split(/\s+/);
    requestResults(typed.slice(0, 200));
    for (const option of options()) {
      const kind = option.dataset.kind;
      if (kind) {
        option.hidden = !typed || (kind === "job") !== isId(typed);
        option.querySelector("[data-typed]").textContent = typed;
        const jobs = palette.dataset.jobs;
        option.href = kind === "job" ? `${jobs}/${encodeURIComponent(typed)}` : `${jobs}?${new URLSearchParams({ q: typed })}`;
      } else {
        const text = option.textContent.toLowerCase();
        option.hidden = !words.every((word) => text.includes(word));
      }
    }
    palette.querySelector(".nothing").hidden = shown().some((option) => !option.dataset.kind) || isId(typed) || !typed;
    hasMoved = false;
    chooseBest();
  };

  const act = (option) => {
    if (!option) return;
    palette.close();
    const what = option.dataset.do;
    if (what === "theme") firelock.switchTheme();
    else if (what === "pause") firelock.togglePause();
    else if (what === "sheet") sheet.showModal();
    else location.href = option.href;
  };

  const open = () => {
    if (palette.open) return;
    input.value = "";
    narrow();
    palette.showModal();
    input.focus();
  };
  for (const opener of document.querySelectorAll("[data-open=palette]")) {
    opener.addEventListener("click", (event) => { event.stopPropagation(); open(); });
  }
  input.addEventListener("input", narrow);
  palette.addEventListener("click", (event) => {
    if (event.target === palette) palette.close();
    const option = event.target.closest("[role=option]");
    if (option?.dataset.do) { event.preventDefault(); act(option); }
  });
  input.addEventListener("keydown", async (event) => {
    const all = shown();
    const at = all.indexOf(chosen);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { hasMoved = true; choose(all[(at + step + all.length) % all.length]); }
    else if (event.key === "Enter") {
      event.preventDefault();
      const one = pending;
      const isSure = isWhole(chosen) || chosen?.dataset.kind === "job"; // no result has precedence over it
      if (one && !hasMoved && !isSure) { one.begin(); await one.done; }
      act(chosen);
    } else return;
    event.preventDefault();
  });

  // ---- single keys ----------------------------------------------------------------------------------------

  const rows = () => [...document.querySelectorAll("main tbody tr[id]")].filter((row) => row.offsetParent);
  const current = () => document.querySelector("main tr.is-current");
  const move = (step) => {
    const all = rows();
    const at = all.indexOf(current());
    const next = all[Math.max(0, Math.min(all.length - 1, at + step))];
    current()?.classList.remove("is-current");
    if (!next) return;
    next.classList.add("is-current");
    next.scrollIntoView({ block: "nearest" });
    next.querySelector("a, input, button")?.focus({ preventScroll: true });
  };
  const onSelection = async (name) => {
    const chosenRows = document.querySelectorAll("main tbody input[type=checkbox]:checked").length;
    if (chosenRows) { document.querySelector(`[data-bulk="${name}"]`)?.click(); return; }
    const opener = current()?.querySelector("a[data-menu]"); // its actions are in its menu
    const list = opener && (await firelock.fetchMenu(opener));
    list?.querySelector(`[data-key="${name}"]`)?.click();
  };

  const keys = {
    j: () => move(1),
    k: () => move(-1),
    x: (event) => {
      const box = current()?.querySelector("input[type=checkbox]");
      box?.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, shiftKey: event.shiftKey }));
    },
    e: () => onSelection("requeue"),
    "#": () => onSelection("delete"),
    p: () => firelock.togglePause(),
    t: () => firelock.switchTheme(),
    "?": () => sheet.showModal(),
    "/": () => (document.querySelector("main [data-filter]") || { focus: open }).focus(),
  };
  let isGoing = false;

  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      open();
      return;
    }
    if (sheet.dataset.are === "off" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable]") || document.querySelector("dialog[open]")) return;
    if (isGoing) {
      isGoing = false;
      const option = options().find((one) => one.dataset.key && one.dataset.key === event.key);
      if (option) { event.preventDefault(); act(option); }
      return;
    }
    if (event.key === "g") { isGoing = true; setTimeout(() => { isGoing = false; }, 1500); return; }
    if (event.key === "Enter" && current() && !event.target.closest?.("a, button, summary")) {
      current().querySelector("a")?.click();
      return;
    }
    const does = keys[event.key] || keys[event.key.toLowerCase()];
    if (does && (event.key !== "X" || event.shiftKey)) { event.preventDefault(); does(event); }
  });
}
