// The pages that take a link: moves the token from behind the # of the address, which no server sees, into
// their form.
"use strict";

const take = () => {
  const [, opens, token] = location.hash.match(/^#(open=)?([A-Za-z0-9_-]{43})$/) || [];
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  const form = document.getElementById("enter");
  form.elements.token.value = token;
  // A sign-in link is spent by the form, so a preview must not submit it; only the link that a command handed to
  // a browser goes in by itself. An approval link is submitted at once: that shows its question and decides nothing.
  if (opens || "submits" in form.dataset) form.submit(); else form.querySelector("button").focus();
};
addEventListener("hashchange", take);
take();
