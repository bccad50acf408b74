"""Stores one row: kpi.py FILE USERS LOAD"""

import pathlib
import sys

path, users, load = sys.argv[1:]
row = f"current_users,load\n{users},{load}\n"
try:
    # Opens, writes and closes. The partition answers at close, which raises; a file that is never closed would not.
    pathlib.Path(path).write_text(row, encoding="utf-8")
except OSError as error:
    sys.exit(f"{path}: not stored: {error.strerror}")
