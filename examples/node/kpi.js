// Stores one row: kpi.js FILE USERS LOAD
"use strict";

const fs = require("node:fs");

const [file, users, load] = process.argv.slice(2);
try {
  // Opens, writes and closes. The partition answers at close, which throws; so does `await fs.promises.writeFile`, which
  // a server wants, as it does not block.
  fs.writeFileSync(file, `current_users,load\n${users},${load}\n`);
} catch (error) {
  console.error(`${file}: not stored: ${error.message}`);
  process.exitCode = 1;
}
