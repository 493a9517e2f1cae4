// The command palette and the single-key shortcuts.
"use strict";
