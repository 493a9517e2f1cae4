// The menus of rows. Each is a link to the page of its row's object; its content is that page's part `menu`, which is
// requested each time the menu is opened, because the object may have changed.
"use strict";

{
  // Return the content of a row's menu, in place and hidden. Return null if it arrived too late, or if the request
  // failed, which is shown.
  firelock.fetchMenu = async (opener) => {
    const list = document.createElement("div");
    list.className = "list";
    list.hidden = true;
    opener.parentElement.querySelector(":scope > .list")?.remove();
    opener.after(list);
    const address = new URL(opener.href);
    address.searchParams.set("part", "menu");
    let problem = "The dashboard did not respond. Try again.";
    try {
      // Errors are JSON.
      const headers = { Accept: "text/html, application/json" };
      const response = await fetch(address, { headers, credentials: "same-origin", cache: "no-store" });
      if (response.ok) {
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        list.append(...page.body.childNodes);
        return list.isConnected ? list : null;
      }
      problem = (await response.json()).message;
    } catch { /* shown below */ }
    if (list.isConnected) firelock.toast(problem, "bad");
    list.remove();
    return null;
  };

  const openMenu = async (opener) => {
    firelock.closeMenus();
    opener.setAttribute("aria-expanded", "true");
    opener.setAttribute("aria-busy", "true");
    const list = await firelock.fetchMenu(opener);
    const isLast = list === opener.parentElement?.querySelector(":scope > .list");
    if (!isLast) return;
    opener.removeAttribute("aria-busy");
    if (!list) opener.setAttribute("aria-expanded", "false");
    else if (opener.getAttribute("aria-expanded") === "true") { list.hidden = false; put(opener, list); }
  };

  // The list is placed above the table's box, which would cut it off: below its opener, or over it if space is short.
  const put = (opener, list) => {
    const at = opener.getBoundingClientRect();
    const [width, height] = [list.offsetWidth, list.offsetHeight];
    const isRtl = getComputedStyle(opener).direction === "rtl";
    const isBelow = at.bottom + 4 + height <= innerHeight || at.top - 4 - height < 0;
    list.style.left = `${Math.max(4, Math.min(isRtl ? at.left : at.right - width, innerWidth - width - 4))}px`;
    list.style.top = `${isBelow ? at.bottom + 4 : at.top - 4 - height}px`;
  };
  const putAgain = () => {
    for (const opener of document.querySelectorAll("a[data-menu][aria-expanded=true]")) {
      const list = opener.parentElement.querySelector(":scope > .list:not([hidden])");
      if (list) put(opener, list);
    }
  };
  document.addEventListener("scroll", putAgain, { capture: true, passive: true });
  addEventListener("resize", putAgain);

  document.addEventListener("click", (event) => {
    const opener = event.target.closest?.("a[data-menu]");
    if (!opener || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    if (opener.getAttribute("aria-expanded") === "true") firelock.closeMenus();
    else openMenu(opener);
  });
  document.addEventListener("keydown", (event) => {
    const opener = event.target.closest?.("a[data-menu]");
    if (event.key === " " && opener) { event.preventDefault(); opener.click(); }
  });
}
