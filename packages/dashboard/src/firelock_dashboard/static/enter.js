// The pages with a form for a link: moves the token from the part of the URL after the #, which is not sent to
// servers, into the form.
"use strict";

const take = () => {
  const [, opens, token] = location.hash.match(/^#(open=)?([A-Za-z0-9_-]{43})$/) || [];
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  const form = document.getElementById("enter");
  form.elements.token.value = token;
  // The form uses up a sign-in link, so a preview must not submit it; only a link that a command has passed to a
  // browser is submitted automatically. An approval link is submitted immediately, which only shows its question.
  if (opens || "submits" in form.dataset) form.submit(); else form.querySelector("button").focus();
};
addEventListener("hashchange", take);
take();
