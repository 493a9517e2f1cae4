// The script of every page: updates its regions and times, and posts its actions without leaving the page.
// The markup contains no handlers and nothing is evaluated; job data is inserted only as text.
"use strict";

const firelock = (window.firelock = {
  root: document.documentElement.dataset.root,
  // The difference between the storage's clock and this one; durations use the storage's clock.
  skew: Date.parse(document.documentElement.dataset.now) - Date.now(),
  now: () => Date.now() + firelock.skew,
});

// ---- times ------------------------------------------------------------------------------------------------

firelock.span = (seconds) => {
  seconds = Math.max(0, seconds);
  const space = "\u00a0";
  const two = (number) => String(number).padStart(2, "0");
  if (seconds < 1) return `${Math.round(seconds * 1000)}${space}ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)}${space}s`;
  const whole = Math.floor(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)}${space}min ${two(whole % 60)}${space}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}${space}h ${two(Math.floor(whole / 60) % 60)}${space}min`;
  return `${Math.floor(whole / 86400)}${space}d ${Math.floor(whole / 3600) % 24}${space}h`;
};

firelock.ago = (at, now) => {
  const seconds = (now - at) / 1000;
  for (const [size, unit] of [[31536000, "y"], [86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
    if (Math.abs(seconds) >= size) {
      const text = `${Math.floor(Math.abs(seconds) / size)}\u00a0${unit}`;
      return seconds > 0 ? `${text} ago` : `in ${text}`;
    }
  }
  return "now";
};

const zoned = (at, zone) =>
  new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium", timeZone: zone }).format(at) +
  (zone ? ` ${zone}` : ` ${Intl.DateTimeFormat().resolvedOptions().timeZone}`);

firelock.tick = (within = document) => {
  const isAbsolute = document.documentElement.dataset.times === "absolute";
  for (const element of within.querySelectorAll("time[data-ago], time[data-running], time[data-at], time[data-clock]")) {
    const at = Date.parse(element.dateTime);
    let text;
    if ("clock" in element.dataset) text = zoned(firelock.now());
    else if ("running" in element.dataset) text = firelock.span((firelock.now() - at) / 1000);
    else if ("at" in element.dataset || isAbsolute) text = zoned(at);
    else text = firelock.ago(at, firelock.now());
    if (element.textContent !== text) element.textContent = text;
  }
  for (const link of within.querySelectorAll("a[data-menu]:not([role])")) {
    link.setAttribute("role", "button"); // the script opens a menu
    link.setAttribute("aria-expanded", "false");
  }
};

let timeCard = null;
const hideTime = () => { timeCard?.remove(); timeCard = null; };
const showTime = (element) => {
  hideTime();
  const at = Date.parse(element.dateTime);
  timeCard = document.createElement("div");
  timeCard.className = "time-card";
  timeCard.setAttribute("role", "tooltip");
  for (const text of [zoned(at), zoned(at, "UTC"), firelock.ago(at, firelock.now())]) {
    timeCard.appendChild(document.createElement("div")).textContent = text;
  }
  document.body.append(timeCard);
  const place = element.getBoundingClientRect();
  const width = timeCard.offsetWidth;
  timeCard.style.insetInlineStart = "auto";
  timeCard.style.left = `${Math.max(8, Math.min(place.left, innerWidth - width - 8)) + scrollX}px`;
  timeCard.style.top = `${place.bottom + 6 + scrollY}px`;
};
for (const [over, out] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
  document.addEventListener(over, (event) => {
    const time = event.target.closest?.("time[tabindex]");
    if (time) showTime(time);
  });
  document.addEventListener(out, (event) => { if (event.target.closest?.("time[tabindex]")) hideTime(); });
}

// ---- messages ---------------------------------------------------------------------------------------------

firelock.toast = (message, kind = "good", link = null, undo = null) => {
  const toast = document.createElement("div");
  toast.className = `toast ${kind}`;
  toast.appendChild(document.createElement("span")).textContent = message;
  if (link && link.startsWith(`${firelock.root}/`)) {
    const to = toast.appendChild(document.createElement("a"));
    to.href = link;
    to.textContent = "Show";
  }
  if (undo) {
    const form = toast.appendChild(document.createElement("form"));
    Object.assign(form, { method: "post", action: `${firelock.root}${undo.path}`, className: "inline" });
    form.dataset.act = "";
    for (const [name, values] of Object.entries(undo.fields)) {
      for (const value of values) Object.assign(form.appendChild(document.createElement("input")), { type: "hidden", name, value });
    }
    Object.assign(form.appendChild(document.createElement("button")), { className: "button small", textContent: "Undo" });
  }
  const close = toast.appendChild(document.createElement("button"));
  close.className = "button small quiet icon-only";
  close.type = "button";
  close.textContent = "×";
  close.setAttribute("aria-label", "Close");
  close.addEventListener("click", () => toast.remove());
  document.getElementById("toasts").append(toast);
  setTimeout(() => toast.remove(), kind === "bad" || undo ? 12000 : 6000);
};

// ---- actions: forms with data-act are posted in place -------------------------------------------------------

// A confirmation's button has the label and the colour of the pressed button. If these would mislead, such as
// "Cancel" next to "Cancel the job", the button or its form has its own labels: data-yes and data-no.
firelock.confirm = (question, pressed = null) => {
  const dialog = document.createElement("dialog");
  const body = dialog.appendChild(document.createElement("div"));
  body.className = "body";
  body.textContent = question;
  const foot = dialog.appendChild(document.createElement("footer"));
  const button = (text, style, value) => {
    const made = foot.appendChild(document.createElement("button"));
    made.className = `button ${style}`;
    made.textContent = text;
    made.addEventListener("click", () => dialog.close(value));
    return made;
  };
  const own = (name) => pressed?.dataset[name] || pressed?.form?.dataset[name];
  button(own("no") || "Cancel", "", "");
  const verb = own("yes") || pressed?.textContent.replace("…", "").trim();
  const yes = button(verb || "Continue", pressed?.classList.contains("danger") ? "primary danger" : "primary", "yes");
  document.body.append(dialog);
  dialog.showModal();
  yes.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
  });
};

firelock.post = async (form, submitter) => {
  const body = new URLSearchParams(new FormData(form, submitter));
  let answer;
  try {
    const response = await fetch(submitter?.getAttribute("formaction") || form.action, {
      method: "POST", body, headers: { Accept: "application/json" }, credentials: "same-origin",
    });
    answer = await response.json();
  } catch {
    answer = { kind: "bad", message: "The dashboard did not respond. Try again." };
  }
  form.closest(".toast")?.remove();
  firelock.toast(answer.message, answer.kind, answer.link, answer.undo);
  form.closest("dialog")?.close();
  if (form.closest(".menu")) firelock.closeMenus();
  document.dispatchEvent(new CustomEvent("firelock:acted", { detail: { form, answer } }));
  firelock.refreshAll(true);
  return answer;
};

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form[data-act]")) return;
  event.preventDefault();
  const question = event.submitter?.dataset.confirm || form.dataset.confirm;
  if (question && !(await firelock.confirm(question, event.submitter))) return;
  const answered = firelock.post(form, event.submitter); // the form must be read before the button is disabled
  if (event.submitter) event.submitter.disabled = true;
  await answered;
  if (event.submitter) event.submitter.disabled = false;
});

// A form with data-saves highlights its button while a field differs from its saved value.
const offerSaving = (form) => {
  const isChanged = [...form.elements].some((field) => field.defaultValue !== undefined && field.value !== field.defaultValue);
  form.classList.toggle("is-changed", isChanged);
  form.querySelector("[data-primary]")?.classList.toggle("primary", isChanged);
};
document.addEventListener("input", (event) => {
  const form = event.target.form;
  if (form?.matches("[data-saves]")) offerSaving(form);
});
document.addEventListener("firelock:acted", ({ detail: { form, answer } }) => {
  if (!form.matches("[data-saves]") || answer.kind !== "good") return;
  for (const field of form.elements) if (field.defaultValue !== undefined) field.defaultValue = field.value;
  if (form.contains(document.activeElement)) document.activeElement.blur(); // so that its region can be refreshed
  offerSaving(form);
});

document.addEventListener("click", (event) => {
  const opener = event.target.closest?.("[data-open]");
  const opened = opener && document.getElementById(opener.dataset.open);
  if (opened?.showModal) { event.preventDefault(); opened.showModal(); }
  if (event.target.closest?.("[data-close]")) event.target.closest("dialog")?.close();
  firelock.closeMenus(event.target);
  const copier = event.target.closest?.("[data-copy]");
  if (copier) {
    const text = copier.dataset.copy || document.getElementById(copier.dataset.copyFrom)?.textContent || "";
    navigator.clipboard?.writeText(text).then(() => firelock.toast("Copied."));
  }
  const rail = event.target.closest?.(".open-rail");
  if (rail) { event.preventDefault(); document.getElementById("rail").classList.toggle("is-open"); }
  else if (!event.target.closest?.(".rail")) document.getElementById("rail")?.classList.remove("is-open");
});

// Open the dialog that moves the jobs with these ids.
firelock.openMove = (ids) => {
  const dialog = document.getElementById("move");
  dialog.querySelector("[data-ids]").replaceChildren(...ids.map((id) => {
    const input = document.createElement("input");
    Object.assign(input, { type: "hidden", name: "id", value: id });
    return input;
  }));
  dialog.showModal();
};

// ---- menus -------------------------------------------------------------------------------------------------
// A menu is a details element, or the link of a row that menus.js turns into a menu.

const OPEN_MENU = "details.menu[open], .menu:has(> [aria-expanded=true])";
const openerOf = (menu) => menu.querySelector(":scope > summary, :scope > [data-menu]");

// Close the open menus, except the one that contains the element.
firelock.closeMenus = (within = null) => {
  for (const menu of document.querySelectorAll(OPEN_MENU)) {
    if (within && menu.contains(within)) continue;
    menu.removeAttribute("open");
    if (menu.matches("details")) continue;
    const [opener, list] = [openerOf(menu), menu.querySelector(":scope > .list")];
    opener.setAttribute("aria-expanded", "false");
    if (opener.hasAttribute("aria-busy")) list?.remove(); // its content would arrive too late
    else if (list) list.hidden = true; // it must not be removed, because a question about a pressed button may be open
    opener.removeAttribute("aria-busy");
  }
};

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  const menu = document.querySelector(OPEN_MENU);
  if (!menu) return;
  firelock.closeMenus();
  openerOf(menu).focus();
});

// ---- live regions -----------------------------------------------------------------------------------------
// <div id="region-x" data-live="x" [data-topics="jobs servers"] [data-every="5"] [data-from="/address"]>: the page's
// own URL with part=x returns its content. A region is not replaced while something in it is focused, selected or
// open. Regions with the same data-with are requested together (part=x,y) and swapped together, so that they show
// the same reading.

const regions = new Map(); // id → { version, busy, waiting }

const isUsed = (region) => {
  const focused = document.activeElement;
  if (focused && focused !== document.body && region.contains(focused) && focused.matches("input, select, textarea, [data-hold]")) return true;
  const shown = (fields) => [...region.querySelectorAll(fields)].filter((field) => !field.closest("dialog:not([open])"));
  if (shown("input:not([type=checkbox], [type=radio]), textarea").some((field) => field.value !== field.defaultValue)) return true;
  if (shown("form select").some((field) => field.selectedIndex !== Math.max(0, [...field.options].findIndex((one) => one.defaultSelected)))) return true;
  if (region.querySelector(`${OPEN_MENU}, dialog[open], input[type=checkbox]:checked`)) return true;
  const selection = getSelection();
  return Boolean(selection && !selection.isCollapsed && region.contains(selection.anchorNode));
};

// Return whether a region is in view; an empty region has no size, so the position of its parent is used.
const isSeen = (region) => {
  const place = (region.offsetHeight ? region : region.parentElement).getBoundingClientRect();
  return place.bottom > 0 && place.top < innerHeight && place.width > 0;
};

// A tab sends at most three automatic requests in two seconds; the region with the oldest request comes first.
let requestTimes = [];
const mayRequest = () => {
  const now = performance.now();
  requestTimes = requestTimes.filter((at) => now - at < 2000);
  return requestTimes.length < 3 && Boolean(requestTimes.push(now));
};
const inTurn = () => {
  const at = (region) => regions.get(region.id)?.at || 0;
  return [...document.querySelectorAll("[data-live]")].sort((a, b) => at(a) - at(b));
};

// Return the foldable elements of a region, by their label and a number.
const folds = (region) => {
  const found = new Map();
  for (const fold of region.querySelectorAll("details:not(.menu)")) {
    const words = fold.id || fold.querySelector("summary")?.textContent.trim();
    let number = 0;
    while (found.has(`${words} ${number}`)) number += 1;
    found.set(`${words} ${number}`, fold);
  }
  return found;
};

// Return the regions to request with this one: those of its group that are wanted now, if any of them is in view.
const companions = (region, force, isWanted) => {
  const group = region.dataset.with ? [...document.querySelectorAll(`[data-live][data-with="${region.dataset.with}"]`)] : [];
  const all = [region, ...group.filter((one) => one !== region && isWanted(one) && !regions.get(one.id)?.busy)];
  if (!force && !all.some(isSeen)) return [];
  return force ? all : all.filter((one) => !isUsed(one));
};

const swap = async (region, text) => {
  const wasOpen = new Map([...folds(region)].map(([name, fold]) => [name, fold.open])); // the reader's choice
  await htmx.swap({ text, target: region, swap: "innerMorph", sourceElement: region, transition: false });
  for (const [name, fold] of folds(region)) fold.open = wasOpen.get(name) ?? fold.open;
  firelock.tick(region);
  region.dispatchEvent(new CustomEvent("firelock:swapped", { bubbles: true }));
};

const knownOf = (region) => {
  if (!regions.has(region.id)) regions.set(region.id, { version: null, busy: false, at: 0 });
  return regions.get(region.id);
};

firelock.refresh = async (region, force = false, isWanted = () => true) => {
  const known = knownOf(region);
  if (known.busy || document.hidden) { known.waiting = true; return; }
  if (document.querySelector("dialog[open]") && !region.closest("dialog")) { known.waiting = true; return; }
  const wanted = companions(region, force, isWanted);
  if (!wanted.includes(region) || (!force && !mayRequest())) { known.waiting = true; return; }
  const all = wanted.map(knownOf);
  for (const one of all) Object.assign(one, { busy: true, waiting: false, at: performance.now() });
  const parts = wanted.map((one) => one.dataset.live).join(",");
  try {
    const address = new URL(region.dataset.from || location.href, location.href);
    const instead = force ? null : firelock.instead?.(region); // a page's smaller request
    for (const [name, value] of Object.entries(instead?.query || { part: parts })) address.searchParams.set(name, value);
    address.hash = "";
    const isKnown = known.version && !instead && all.every((one) => one.version === known.version);
    const headers = isKnown ? { "If-None-Match": known.version } : {};
    const response = await fetch(address, { headers, credentials: "same-origin", cache: "no-store" });
    if (response.status === 200 && instead) {
      instead.take(await response.text());
      firelock.setLive("live");
    } else if (response.status === 200) {
      const version = response.headers.get("ETag");
      const texts = wanted.length > 1 ? await response.json() : { [parts]: await response.text() };
      for (const one of wanted) {
        const kept = knownOf(one);
        if (!force && isUsed(one)) { Object.assign(kept, { waiting: true, version: null }); continue; }
        kept.version = version;
        if (!firelock.taker?.(one, texts[one.dataset.live])) await swap(one, texts[one.dataset.live]);
      }
      firelock.setLive("live");
    } else if (response.status >= 500) firelock.setLive("lost");
  } catch {
    firelock.setLive("lost");
  } finally {
    for (const one of all) one.busy = false;
  }
};

// Refresh these regions in turn, except those that were requested along with an earlier one.
const refreshEach = (isWanted, force = false) => {
  const began = performance.now();
  for (const region of inTurn()) {
    if (isWanted(region) && !(knownOf(region).at >= began)) firelock.refresh(region, force, isWanted);
  }
};

firelock.refreshAll = (force = false, moved = null) => {
  refreshEach((region) => !moved || (region.dataset.topics || "").split(" ").some((topic) => moved.includes(topic)), force);
};

const chip = document.querySelector("[data-live-chip]");
const chipTexts = { live: "Live", paused: "Paused", lost: "Reconnecting", off: "Not live" };
firelock.setLive = (state) => {
  if (!chip || (chip.dataset.is === "paused" && state !== "resumed")) return;
  chip.hidden = false;
  chip.dataset.is = state === "resumed" ? "live" : state;
  chip.textContent = chipTexts[chip.dataset.is];
};
firelock.isPaused = () => chip?.dataset.is === "paused";
firelock.togglePause = () => {
  if (firelock.isPaused()) { firelock.setLive("resumed"); firelock.refreshAll(true); } else { firelock.setLive("paused"); }
};
chip?.addEventListener("click", firelock.togglePause);

// The stream reports changes; without a stream, regions are polled. Only one window of a browser has the stream: the
// one that holds a lock, and it notifies the others. Without support for locks, each window has its own stream.
let stream = null;
let pace = 1;
let turn = null; // this window's current request for the lock
let isFirst = true;
let receivedAt = -Infinity;
const SHARED = `firelock:live:${firelock.root}`;
const others = navigator.locks && window.BroadcastChannel ? new BroadcastChannel(SHARED) : null;

const handlers = {
  moved: (topics) => {
    pace = 1;
    firelock.setLive("live");
    if (!firelock.isPaused()) firelock.refreshAll(false, topics.split(" "));
  },
  sample: (sample) => {
    if (isFirst && !firelock.isPaused()) firelock.refreshAll(); // earlier changes were not reported
    isFirst = false;
    if (!firelock.isPaused()) document.dispatchEvent(new CustomEvent("firelock:sample", { detail: JSON.parse(sample) }));
  },
  down: () => firelock.setLive("lost"),
  up: () => firelock.setLive("live"),
  lost: () => { isFirst = true; firelock.setLive("lost"); },
  none: () => { firelock.hasNoStream = true; unlisten(); },
};
const receive = (name, data) => {
  receivedAt = name === "lost" || name === "none" ? -Infinity : performance.now();
  handlers[name](data);
};
const broadcast = (name, data) => { others?.postMessage({ name, data }); receive(name, data); };
others?.addEventListener("message", (event) => {
  if (turn && !stream && Object.hasOwn(handlers, event.data?.name)) receive(event.data.name, event.data.data);
});

const open = () => {
  stream = new EventSource(`${firelock.root}/live`);
  for (const name of ["moved", "sample", "down", "up"]) stream.addEventListener(name, (event) => broadcast(name, event.data));
  stream.addEventListener("error", () => broadcast(stream?.readyState === EventSource.CLOSED ? "none" : "lost"));
};
const listen = () => {
  if (turn || document.hidden || !window.EventSource || firelock.hasNoStream) return;
  const mine = (turn = { request: new AbortController(), end: () => {} });
  isFirst = true;
  if (!others) { open(); return; }
  navigator.locks.request(SHARED, { signal: mine.request.signal }, () => {
    if (turn !== mine) return null;
    open();
    return new Promise((resolve) => { mine.end = resolve; });
  }).catch(() => {}); // aborted while waiting
};
const unlisten = () => {
  stream?.close();
  stream = null;
  turn?.request.abort();
  turn?.end();
  turn = null;
};
firelock.isStreaming = () => stream?.readyState === EventSource.OPEN || (turn !== null && performance.now() - receivedAt < 5000);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) unlisten();
  else { listen(); if (!firelock.isPaused()) firelock.refreshAll(); }
});
addEventListener("pagehide", unlisten);

let beat = 0;
setInterval(() => {
  if (document.hidden) return;
  firelock.tick();
  beat += 1;
  if (firelock.isPaused()) return;
  refreshEach((region) => {
    const every = Number(region.dataset.every || (firelock.isStreaming() ? 15 : 4)) * pace;
    return beat % Math.max(1, Math.round(every)) === 0 || knownOf(region).waiting;
  });
}, 1000);

// ---- the theme ----------------------------------------------------------------------------------------------

firelock.setTheme = (theme) => {
  document.documentElement.dataset.theme = theme;
  const body = new URLSearchParams({ theme });
  fetch(`${firelock.root}/settings`, { method: "POST", body, headers: { Accept: "application/json" } });
  document.dispatchEvent(new CustomEvent("firelock:theme"));
};
firelock.switchTheme = () => {
  const is = document.documentElement.dataset.theme;
  const isDark = is === "dark" || (is !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  firelock.setTheme(isDark ? "light" : "dark");
};
document.addEventListener("submit", (event) => {
  if (event.target.matches("[data-theme-switch]")) { event.preventDefault(); firelock.switchTheme(); }
});

// Show the whole text of an element that ends in an ellipsis when the pointer is over it.
document.addEventListener("pointerover", (event) => {
  for (let place = event.target; place && place !== document.body; place = place.parentElement) {
    if (place.title) return;
    const style = getComputedStyle(place);
    const isCut = (place.scrollWidth > place.clientWidth && style.textOverflow === "ellipsis")
      || (place.scrollHeight > place.clientHeight && style.webkitLineClamp !== "none");
    if (!isCut) continue;
    place.title = place.textContent.replace(/\s+/g, " ").trim();
    return;
  }
});

// If the tabs do not fit, scroll the current one into view.
for (const tab of document.querySelectorAll(".tabs [aria-current]")) {
  const row = tab.parentElement;
  const place = tab.getBoundingClientRect();
  row.scrollLeft += place.left + place.width / 2 - row.getBoundingClientRect().left - row.clientWidth / 2;
}

firelock.tick();
if (document.querySelector("[data-live]")) { listen(); firelock.setLive("live"); }
