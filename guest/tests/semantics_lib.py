"""What the tries of docs/SEMANTICS.md share: arguments are the mount, the state directory and the phase."""
import ctypes, errno, os, pwd, sqlite3, subprocess, sys, time

TOP, STATE, PHASE = sys.argv[1:4]
PLAIN, SECRET = TOP + "/unencrypted/", TOP + "/encrypted/"
NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
NOBODY = pwd.getpwnam("nobody").pw_uid


def store(path, data, flags=NEW):
    fd = os.open(path, flags, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def sql(query, area="unencrypted"):
    db = sqlite3.connect(f"{STATE}/{area}.db")
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def rows(path):
    area, name = path.split("/")[-2:]
    there = sql(f"SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = '{name}'", area)[0][0]
    return sql(f'SELECT count(*) FROM "{name}"', area)[0][0] if there else 0


def fails(errno_expected, call, *args):
    try:
        call(*args)
    except OSError as e:
        assert e.errno == errno_expected, e
    else:
        assert False, f"no {errno.errorcode[errno_expected]}"


def shell(script, cwd=PLAIN):
    done = subprocess.run(["sh", "-ec", script], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, (done.returncode, done.stderr)
    return done.stdout


def as_nobody(call):
    """What a call fails with as an ordinary user; None: nothing."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            call()
            code = 0
        except OSError as e:
            code = e.errno
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode.get(code, code) if code else None


def until(holds):
    """The last part of a close is not waited for."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it never holds"
        time.sleep(0.001)


def can(call):
    try:
        call()
        return True
    except OSError:
        return False


def splice(source, target):
    libc = ctypes.CDLL(None, use_errno=True)
    r, w = os.pipe()
    moved = libc.splice(source, None, w, None, ctypes.c_size_t(9), 0)
    assert libc.splice(r, None, target, None, ctypes.c_size_t(moved), 0) == moved
    os.close(r)
    os.close(w)
    return moved
