// The page that asks for a link: takes the token from the address, where no server sees it, into the form.
"use strict";

const take = () => {
  const [, opens, token] = location.hash.match(/^#(open=)?([A-Za-z0-9_-]{43})$/) || [];
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  const form = document.getElementById("enter");
  form.elements.token.value = token;
  // Only the link that a command has handed to a browser goes in by itself: a preview must not spend one.
  if (opens) form.submit(); else form.querySelector("button").focus();
};
addEventListener("hashchange", take);
take();
