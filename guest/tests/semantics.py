"""Tries on a mounted partition what docs/SEMANTICS.md lists, and prints the errno of each as JSON."""
import ctypes, errno, json, mmap, os, resource, sys

top, plain, secret = sys.argv[1], sys.argv[1] + "/unencrypted/", sys.argv[1] + "/encrypted/"
libc = ctypes.CDLL(None, use_errno=True)


def store(path, data, flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
    fd = os.open(path, flags, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def half_written():
    fd = os.open(plain + "half", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    other = os.dup(fd)
    os.write(fd, b'a,"b')
    try:
        os.close(fd)
    finally:
        os.write(other, b'"\n1,2\n')
        os.close(other)


def too_many_bytes(close):
    fd = os.open(plain + "big", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    failed = None
    for _ in range(17):
        try:
            os.write(fd, b"x" * 65536)
        except OSError as e:
            failed = e
    try:
        os.close(fd)
    except OSError as e:
        if close:
            raise e
    if not close and failed:
        raise failed


def wide_table():
    header = lambda p: ",".join(f"{p}{i}" for i in range(600)).encode()
    row = b"\n" + b",".join(b"1" for _ in range(600)) + b"\n"
    store(plain + "wide", header("a") + row)
    store(plain + "wide", header("b") + row)


def other_case(removed):
    store(plain + f"case{removed}", b"1\n")
    if removed:
        os.unlink(plain + f"case{removed}")
    store(plain + f"Case{removed}", b"1\n")


def rename_other_case():
    store(plain + "kept", b"1\n")
    store(plain + ".t", b"1\n")
    os.rename(plain + ".t", plain + "KEPT")


def bad_scratch():
    store(plain + ".bad", b"a,b\n1\n")
    os.rename(plain + ".bad", plain + "bad")


def scratch_flood():
    try:
        for i in range(300):
            store(secret + f".s{i}", b"x")
    finally:
        for name in os.listdir(secret):
            if name.startswith(".s"):
                os.unlink(secret + name)


def shared_mmap():
    with open(plain + "ok", "r+b") as f:
        try:
            mmap.mmap(f.fileno(), 2, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError:
            mmap.mmap(f.fileno(), 2, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


def handle_flood():
    resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))
    fds = []
    try:
        for _ in range(4500):
            fds.append(os.open(plain + "ok", os.O_RDONLY))
    finally:
        for fd in fds:
            os.close(fd)


def fallocate():
    fd = os.open(plain + "ok", os.O_WRONLY)
    try:
        checked(libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(10)))
    finally:
        os.close(fd)


store(plain + "ok", b"1\n")
store(plain + "ok2", b"1\n")
TRIES = {
    "a file that is no CSV": lambda: store(plain + "nocsv", b"a,b\n1\n"),
    "a half-written file, at the close of a duplicated descriptor": half_written,
    "more columns than 1,000": lambda: store(plain + "cols", b"," * 10_000 + b"\n"),
    "a table that would get more columns than 1,000": wide_table,
    "more bytes than 1 MiB": lambda: too_many_bytes(False),
    "the close after more bytes than 1 MiB": lambda: too_many_bytes(True),
    "truncate to more bytes than 1 MiB": lambda: os.truncate(plain + "ok", (1 << 20) + 1),
    "a scratch file that is no CSV, renamed onto a name": bad_scratch,
    "a name over 200 bytes": lambda: store(plain + "x" * 201, b"1\n"),
    "a name with a control character": lambda: store(plain + "a\nb", b"1\n"),
    "a name that is not UTF-8": lambda: store(plain.encode() + b"a\xff", b"1\n"),
    "a name that begins with `sqlite_`": lambda: store(plain + "sqlite_master", b"1\n"),
    "a name that differs from a stored one in ASCII case alone": lambda: other_case(0),
    "the same, of a stored file that was removed": lambda: other_case(1),
    "rename onto a name in another case": rename_other_case,
    "more scratch files than 256": scratch_flood,
    "more handles than 4,096": handle_flood,
    "a file at the top": lambda: store(top + "/f", b"1\n"),
    "a directory at the top": lambda: os.mkdir(top + "/d"),
    "a directory in `unencrypted/`": lambda: os.mkdir(plain + "d"),
    "rmdir of `encrypted/`": lambda: os.rmdir(secret),
    "rename of a directory": lambda: os.rename(top + "/encrypted", top + "/other"),
    "rename between the directories": lambda: os.rename(plain + "ok", secret + "ok"),
    "renameat2 with RENAME_EXCHANGE": lambda: checked(
        libc.renameat2(-100, (plain + "ok").encode(), -100, (plain + "ok2").encode(), 2)
    ),
    "a symbolic link": lambda: os.symlink("ok", plain + "l"),
    "a hard link": lambda: os.link(plain + "ok", plain + "l"),
    "mknod of a fifo": lambda: os.mkfifo(plain + "p"),
    "chmod of a directory": lambda: os.chmod(plain, 0o700),
    "chown": lambda: os.chown(plain + "ok", 1, 1),
    "setxattr": lambda: os.setxattr(plain + "ok", "user.a", b"1"),
    "getxattr": lambda: os.getxattr(plain + "ok", "user.a"),
    "listxattr": lambda: checked(libc.listxattr((plain + "ok").encode(), None, 0)),
    "removexattr": lambda: os.removexattr(plain + "ok", "user.a"),
    "a shared mmap": shared_mmap,
    "fallocate": fallocate,
    "O_TMPFILE": lambda: os.open(plain, os.O_WRONLY | os.O_TMPFILE, 0o600),
}
seen = {}
for what, attempt in TRIES.items():
    try:
        attempt()
        seen[what] = "OK"
    except OSError as e:
        seen[what] = errno.errorcode.get(e.errno, str(e.errno))
        if seen[what] == "ENOTSUP":
            seen[what] = "EOPNOTSUPP"
json.dump(seen, sys.stdout)
