// Lists of jobs: selection, actions, a pill that announces new rows, and suggestions while the visitor types.
"use strict";

{
  const region = document.getElementById("region-rows");
  const bar = document.querySelector("[data-bulk-bar]");
  let isEverything = false;
  let last = null; // the checkbox where a range begins

  const boxes = () => [...region.querySelectorAll("tbody input[name=id]")];
  const chosen = () => boxes().filter((box) => box.checked);
  const fill = (text, count) => text.replace("{count}", count);

  const show = () => {
    const count = chosen().length;
    for (const box of boxes()) box.closest("tr").setAttribute("aria-selected", box.checked);
    const all = region.querySelector("[data-select-page]");
    if (all) {
      all.checked = count > 0 && count === boxes().length;
      all.indeterminate = count > 0 && !all.checked;
    }
    if (!count) isEverything = false;
    if (!bar) return;
    bar.hidden = !count;
    const text = bar.querySelector("[data-bulk-count]");
    const whole = bar.querySelector("[data-bulk-all]");
    text.textContent = isEverything && whole ? whole.dataset.text : fill(text.dataset.text, count);
    if (whole) whole.hidden = isEverything || !all?.checked;
  };

  document.addEventListener("click", (event) => {
    const box = event.target.closest?.("tbody input[name=id]");
    if (box && region.contains(box)) {
      const all = boxes();
      if (event.shiftKey && last?.isConnected) {
        const [from, to] = [all.indexOf(last), all.indexOf(box)].sort((a, b) => a - b);
        for (const one of all.slice(from, to + 1)) one.checked = box.checked;
      }
      last = box;
      isEverything = false;
      show();
    }
    if (event.target.matches?.("[data-select-page]")) {
      for (const one of boxes()) one.checked = event.target.checked;
      isEverything = false;
      show();
    }
    if (event.target.closest?.("[data-bulk-all]")) { isEverything = true; show(); }
    if (event.target.closest?.("[data-bulk-none]")) { for (const one of boxes()) one.checked = false; show(); }
    if (event.target.closest?.("[data-bulk-ids]")) {
      const ids = chosen().map((box) => box.value).join("\n");
      navigator.clipboard?.writeText(ids).then(() => firelock.toast("Copied."));
    }
    const file = event.target.closest?.("[data-bulk-export]");
    if (file) {
      const to = new URL(isEverything ? file.dataset.everything : file.dataset.bulkExport, location.href);
      if (!isEverything) for (const box of chosen()) to.searchParams.append("selected", box.value);
      location.href = to;
    }
    const later = event.target.closest?.("[data-reschedule]");
    if (later) {
      event.preventDefault();
      const dialog = document.getElementById("reschedule");
      dialog.querySelector("[name=one]").value = later.dataset.reschedule;
      firelock.closeMenus();
      dialog.showModal();
    }
  });

  document.addEventListener("click", (event) => {
    const move = event.target.closest?.("[data-move]");
    if (!move) return;
    event.preventDefault();
    firelock.closeMenus();
    firelock.openMove(move.dataset.move ? [move.dataset.move] : boxes().filter((one) => one.checked).map((one) => one.value));
  });

  // An action on all matching jobs is confirmed on a separate page, which shows the number of jobs.
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-bulk]");
    if (!button || !isEverything) return;
    event.preventDefault();
    event.stopPropagation();
    if (button.dataset.everything) location.href = button.dataset.everything;
    else firelock.toast(button.dataset.notAll, "note");
  }, true);

  document.addEventListener("firelock:acted", () => {
    firelock.closeMenus();
    for (const box of boxes()) box.checked = false;
    isEverything = false;
    show();
  });
  region?.addEventListener("firelock:swapped", show);

  // ---- changed rows -----------------------------------------------------------------------------------------
  // Rows are changed in place, and rows that left the list turn grey; new rows are shown after a click on the pill.

  let pill = null;
  let wantsAll = false;
  let lookedAt = 0; // when rows last arrived
  const WHOLE = 10_000; // milliseconds between reads of the shown rows while new rows wait
  const hidePill = () => { pill?.remove(); pill = null; };
  const swap = async (text) => {
    hidePill();
    await htmx.swap({ text, target: region, swap: "innerMorph", sourceElement: region, transition: false });
    firelock.tick(region);
    show();
  };

  const replace = (row, fresh) => {
    for (const place of row.cells.length === fresh.cells.length ? row.cells : []) {
      const next = fresh.cells[place.cellIndex];
      if (place.classList.contains("pick") || place.querySelector("[data-menu]")) continue; // keep these two
      if (!place.isEqualNode(next) && !place.contains(document.activeElement)) place.replaceChildren(...next.childNodes);
    }
    row.dataset.state = fresh.dataset.state;
    row.classList.remove("is-gone");
  };

  const leave = (row) => {
    if (row.classList.contains("is-gone")) return;
    row.classList.add("is-gone");
    const when = row.querySelector("td.when");
    const note = document.createElement("span");
    note.className = "more";
    note.textContent = region.dataset.gone;
    when?.replaceChildren(note);
  };

  firelock.taker = (where, text) => {
    if (!("list" in where.dataset)) return false;
    lookedAt = performance.now();
    if (wantsAll) { wantsAll = false; swap(text); return true; }
    const rows = [...where.querySelectorAll("tbody tr[id]")];
    const page = new DOMParser().parseFromString(text, "text/html");
    const fresh = new Map([...page.querySelectorAll("tbody tr[id]")].map((row) => [row.id, row]));
    if (!rows.length) return false;
    const kept = rows.filter((row) => fresh.has(row.id));
    const added = [...fresh.keys()].filter((id) => !document.getElementById(id));
    // A missing row above a row that is still listed has left the list. A missing row below it may
    // be on the next page now.
    const lowest = kept.length ? rows.indexOf(kept[kept.length - 1]) : added.length ? -1 : rows.length;
    rows.forEach((row, place) => {
      if (fresh.has(row.id)) replace(row, fresh.get(row.id));
      else if (place < lowest || !added.length) leave(row);
    });
    firelock.tick(where);
    if (!added.length || "isLater" in where.dataset) { hidePill(); return true; }
    if (!pill) {
      pill = document.createElement("button");
      pill.type = "button";
      pill.className = "pill";
      where.prepend(pill);
    }
    pill.textContent = fill(where.dataset.pill, added.length === fresh.size ? `${added.length}+` : added.length);
    pill.onclick = () => { wantsAll = true; firelock.refresh(where, true); };
    return true;
  };

  // ---- automatic search -------------------------------------------------------------------------------------
  // The search continues until the page is full, nothing is left, or the visitor stops it. Meanwhile the list is
  // not refreshed.

  let search = null; // { examined, found, next, isStopped }
  const state = () => region.querySelector("[data-search]");
  const counted = (number) => String(number).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  const showProgress = (place, end = null) => {
    const text = place.dataset.text.replace("{examined}", counted(search.examined)).replace("{found}", counted(search.found));
    place.querySelector("[data-search-text]").textContent = text;
    const bar = place.querySelector("progress");
    bar.hidden = end !== null;
    if (bar.hasAttribute("max")) bar.value = Math.min(search.examined, bar.max);
    place.querySelector("[data-search-stop]").hidden = end !== null;
    const at = place.querySelector("[data-search-at]");
    if (at) at.hidden = !search.next; // if everything was searched, there is no position to show
    const on = place.querySelector("[data-search-on]");
    if (on) {
      on.hidden = end === null || !search.next;
      if (search.next) on.href = search.next;
    }
    if (end !== null) place.querySelector("[data-search-status]").textContent = `${text}. ${end}`;
  };

  // Append the rows of the next part to the shown rows; the page ends where the last part ends.
  const join = (page) => {
    const place = state();
    const rows = [...page.querySelectorAll("tbody tr[id]")];
    const body = region.querySelector("tbody");
    if (rows.length && body) body.append(...rows);
    else if (rows.length) {
      region.querySelector(".empty")?.replaceWith(page.querySelector(".scroll"));
    } else if (!search.next && !search.found) {
      const nothing = page.querySelector(".empty");
      if (nothing) {
        nothing.querySelector("strong").textContent = place.dataset.none; // for the whole list
        region.querySelector(".empty")?.replaceWith(nothing);
      }
    }
    const foot = page.querySelector(".list-foot");
    if (foot) region.querySelector(".list-foot")?.replaceWith(foot);
    const at = page.querySelector("[data-search-at]");
    if (at) place.querySelector("[data-search-at]")?.replaceWith(at);
    firelock.tick(region);
    show();
  };

  const goOn = async () => {
    const place = state();
    if (!place?.dataset.next || search) return;
    const limit = Number(place.dataset.limit);
    const one = (search = { examined: Number(place.dataset.examined), found: boxes().length, next: place.dataset.next, isStopped: false });
    region.removeAttribute("data-live");
    let end = place.dataset.stopped;
    while (!one.isStopped && one.next && one.found < limit) {
      showProgress(place);
      const address = new URL(one.next, location.href);
      address.searchParams.set("part", "rows");
      let text;
      try {
        const response = await fetch(address, { credentials: "same-origin", cache: "no-store" });
        if (!response.ok) throw new Error(response.status);
        text = await response.text();
      } catch { firelock.setLive("lost"); break; }
      if (search !== one) return; // the list has been replaced
      const page = new DOMParser().parseFromString(text, "text/html");
      const part = page.querySelector("[data-search]");
      one.examined += Number(part?.dataset.examined || 0);
      one.next = part?.dataset.next || null;
      one.found += page.querySelectorAll("tbody tr[id]").length;
      join(page);
      if (!one.next) end = place.dataset.done;
    }
    showProgress(place, one.found >= limit ? "" : end);
  };
  document.addEventListener("click", (event) => {
    if (search && event.target.closest?.("[data-search-stop]")) search.isStopped = true;
  });
  // An action changes the list, so search again.
  document.addEventListener("firelock:acted", async () => {
    if (!search || region.hasAttribute("data-live")) return;
    search = null;
    const address = new URL(location.href);
    address.searchParams.set("part", "rows");
    const response = await fetch(address, { credentials: "same-origin", cache: "no-store" });
    if (!response.ok) return;
    region.setAttribute("data-live", "rows");
    await swap(await response.text());
    goOn();
  });

  // The pill shows only the number of new rows, so only this number is requested until the visitor opens them.
  firelock.instead = (where) => {
    const top = where === region && pill && performance.now() - lookedAt < WHOLE && boxes()[0]?.value;
    if (!top) return null;
    return {
      query: { part: "pill", top },
      take: (count) => { if (pill && count.trim()) pill.textContent = fill(region.dataset.pill, count.trim()); },
    };
  };

  // ---- suggestions ------------------------------------------------------------------------------------------

  const input = document.getElementById("filter");
  const list = document.getElementById("suggestions");
  let at = -1;
  const options = () => [...list.querySelectorAll("[role=option]")];
  const open = (is) => {
    list.hidden = !is || !options().length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    if (list.hidden) choose(-1);
  };
  const choose = (place) => {
    at = place;
    options().forEach((one, number) => one.setAttribute("aria-selected", String(number === at)));
    const option = options()[at];
    if (option) { input.setAttribute("aria-activedescendant", option.id); option.scrollIntoView({ block: "nearest" }); } else input.removeAttribute("aria-activedescendant");
  };
  const take = (option) => {
    input.value = option.dataset.value + ("whole" in option.dataset ? " " : "");
    input.focus();
    input.dispatchEvent(new Event("input", { bubbles: true }));
    open(false);
  };
  if (input && list) {
    new MutationObserver(() => { at = -1; open(document.activeElement === input); }).observe(list, { childList: true });
    input.addEventListener("keydown", (event) => {
      const all = options();
      if (event.key === "Escape" && !list.hidden) { event.preventDefault(); open(false); }
      if (list.hidden || !all.length) { if (event.key === "ArrowDown" && all.length) open(true); return; }
      if (event.key === "ArrowDown") choose((at + 1) % all.length);
      else if (event.key === "ArrowUp") choose(at <= 0 ? all.length - 1 : at - 1);
      else if ((event.key === "Enter" || event.key === "Tab") && at >= 0) take(all[at]);
      else return;
      event.preventDefault();
    });
    list.addEventListener("mousedown", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) { event.preventDefault(); take(option); }
    });
    input.addEventListener("blur", () => open(false));
  }
  show();
  goOn();
}
