"""The second half of semantics_said.py: names, modes, times, locks, tools, content."""
import ctypes, errno, fcntl, mmap, os, resource, signal, stat

from semantics_lib import *

# Names


def two_directories():
    assert sorted(os.listdir(TOP)) == ["encrypted", "unencrypted"]
    fails(errno.EEXIST, os.mkdir, SECRET)
    fails(errno.EISDIR, os.unlink, TOP + "/encrypted")
    fails(errno.EISDIR, os.open, SECRET, os.O_WRONLY)
    store(PLAIN + "n1", b"1\n")
    for call in [os.mkdir, os.mkfifo, lambda f: os.symlink("x", f), lambda f: os.link(PLAIN + "n1", f)]:
        fails(errno.EEXIST, call, PLAIN + "n1")
    fails(errno.ENOTDIR, os.rmdir, PLAIN + "n1")
    fails(errno.ENOTDIR, os.stat, PLAIN + "n1/")
    fails(errno.ENOTDIR, os.open, PLAIN + "n1", os.O_RDONLY | os.O_DIRECTORY)
    fails(errno.EISDIR, os.open, PLAIN + "n1x/", NEW)
    fails(errno.ENOENT, os.open, PLAIN + "n1x", os.O_RDONLY)
    fails(errno.EEXIST, os.open, PLAIN + "n1", NEW | os.O_EXCL)
    fails(errno.EISDIR, os.rename, PLAIN + "n1", TOP + "/encrypted")
    fails(errno.ENOTDIR, os.rename, TOP + "/encrypted", PLAIN + "n1")
    fails(errno.ENOENT, os.rename, PLAIN + "n1x", PLAIN + "n1")
    os.rename(PLAIN + "n1", PLAIN + "n1")
    top = os.open(TOP, os.O_RDONLY)
    fails(errno.EISDIR, os.read, top, 1)
    os.close(top)
    fd = os.open(PLAIN + "n1", os.O_RDONLY)
    fails(errno.EBADF, os.write, fd, b"x")
    fails(errno.EINVAL, os.ftruncate, fd, 0)
    os.close(fd)
    assert os.path.samefile(PLAIN + "..", TOP) and rows(PLAIN + "n1") == 1


def names_have_200_bytes():
    name = "ü" * 100
    store(SECRET + name, b"x")
    assert name in os.listdir(SECRET)
    for path in [TOP, SECRET, SECRET + name]:
        assert os.pathconf(path, "PC_NAME_MAX") == os.statvfs(path).f_namemax == 200
    for path in [TOP + "/", SECRET]:
        for call in [os.stat, os.unlink, os.mkdir, lambda f: os.open(f, NEW), lambda f: os.rename(SECRET + name, f)]:
            fails(errno.ENAMETOOLONG, call, path + name + "x")
    fails(errno.EINVAL, os.rename, SECRET + name, SECRET + "a\tb")


def case_twins():
    f, twin = SECRET + "n3", SECRET + "N3"
    fd = os.open(f, NEW)
    fails(errno.EEXIST, store, twin, b"x")
    os.unlink(f)
    fails(errno.EEXIST, store, twin, b"x")
    os.close(fd)
    until(lambda: can(lambda: store(twin, b"x")))
    os.unlink(twin)
    fails(errno.EEXIST, store, f, b"x")
    store(PLAIN + "n3", b"1\n")
    store(SECRET + "ä3", b"x")
    store(SECRET + "Ä3", b"x")


def scratch_takes_anything():
    f = PLAIN + ".n4"
    store(f, b'a,b\n"')
    store(f, b"c", os.O_WRONLY | os.O_APPEND)
    assert read(f) == b'a,b\n"c'
    store(f, b"")
    os.close(os.open(f, NEW))
    assert (read(f), os.stat(f).st_size) == (b"", 0)
    assert not sql("SELECT 1 FROM sqlite_schema WHERE name = '.n4'")


def after_remount_scratch_is_gone():
    assert not os.path.exists(PLAIN + ".m9gone")


def inode_numbers_stay():
    f = PLAIN + ".n5"
    store(f, b"1\n")
    ino = os.stat(f).st_ino
    for to in ["n5a", "n5b"]:
        os.rename(f, PLAIN + to)
        f = PLAIN + to
        store(f, b"2\n")
        listed = {e.name: e.inode() for e in os.scandir(PLAIN)}
        assert os.stat(f).st_ino == listed[to] == ino


def listings_are_complete():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    libc.telldir.argtypes = libc.readdir.argtypes = libc.rewinddir.argtypes = [ctypes.c_void_p]
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    stay = [f"n6-{i:03}" for i in range(150)]
    for name in stay:
        os.close(os.open(SECRET + name, NEW))
    for i in range(60):
        os.close(os.open(SECRET + f"n6gone{i}", NEW))
    directory = libc.opendir(SECRET.encode())

    def entries():
        while entry := libc.readdir(directory):
            # d_name follows d_ino, d_off, d_reclen and d_type.
            yield ctypes.string_at(entry + 19).decode()

    seen = []
    for i, name in enumerate(entries()):
        seen.append(name)
        if i % 3 == 0 and i < 180:
            os.unlink(SECRET + f"n6gone{i // 3}")
            store(SECRET + f".n6new{i}", b"")
            os.rename(SECRET + f".n6new{i}", SECRET + stay[i % 150])
        if i == 20:
            place = libc.telldir(directory)
    assert [seen.count(name) for name in stay] == [1] * 150
    libc.seekdir(directory, place)
    again = list(entries())
    assert set(seen[21:]) & set(stay) == set(again) & set(stay)
    libc.rewinddir(directory)
    now = list(entries())
    assert sorted(now) == sorted(os.listdir(SECRET) + [".", ".."])
    libc.closedir(ctypes.c_void_p(directory))
    for name in stay:
        os.unlink(SECRET + name)


def fsync_of_a_directory_is_0():
    fd = os.open(SECRET, os.O_RDONLY)
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)


# Modes and owners


def everything_belongs_to_one_owner():
    f = PLAIN + "o1"
    assert as_nobody(lambda: store(f, b"1\n")) is None
    for path in [TOP, PLAIN, f]:
        assert (os.stat(path).st_uid, os.stat(path).st_gid) == (os.getuid(), os.getgid())


def new_files_have_the_mounts_mode():
    before = os.umask(0o077)
    os.close(os.open(PLAIN + "o2", NEW, 0o600))
    os.umask(before)
    assert stat.S_IMODE(os.stat(PLAIN + "o2").st_mode) == 0o666
    assert stat.S_IMODE(os.stat(PLAIN).st_mode) == 0o777


def chmod_works_on_files():
    mode = lambda f: stat.S_IMODE(os.stat(f).st_mode)
    for f in [PLAIN + "o3", PLAIN + ".o3"]:
        fd = os.open(f, NEW)
        os.fchmod(fd, 0o600)
        assert mode(f) == 0o600
        os.write(fd, b"1\n")
        os.close(fd)
        os.chmod(f, 0o7751)
        assert mode(f) == 0o751
        assert as_nobody(lambda: os.chmod(f, 0o666)) == "EPERM"
        store(f, b"2\n")
        assert mode(f) == 0o751
    os.unlink(PLAIN + "o3")
    store(PLAIN + "o3", b"3\n")
    assert mode(PLAIN + "o3") == 0o666


def a_rename_takes_the_mode_along():
    f = PLAIN + "o4"
    store(f, b"1\n")
    os.chmod(f, 0o600)
    for name, mode in [(".o4", 0o640), ("o4b", 0o644), ("o4c", 0o666)]:
        store(PLAIN + name, b"2\n")
        os.chmod(PLAIN + name, mode)
        os.rename(PLAIN + name, f)
        assert stat.S_IMODE(os.stat(f).st_mode) == mode
        assert sql("SELECT mode FROM \".files\" WHERE name = 'o4'") == [(mode,)]


def modes_are_enforced():
    f = PLAIN + "o5"
    store(f, b"1\n")
    os.chmod(f, 0o644)
    assert as_nobody(lambda: read(f)) is None
    assert as_nobody(lambda: store(f, b"2\n")) == "EACCES"
    assert as_nobody(lambda: os.truncate(f, 1)) == "EACCES"
    access = lambda mode: as_nobody(lambda: None if os.access(f, mode) else os.close(-1))
    assert (access(os.R_OK), access(os.W_OK), access(os.X_OK)) == (None, "EBADF", "EBADF")
    os.chmod(f, 0o600)
    assert as_nobody(lambda: read(f)) == "EACCES"
    os.chmod(f, 0o666)
    assert as_nobody(lambda: store(f, b"2\n")) is None


def changes_that_change_nothing_succeed():
    f = PLAIN + "o6"
    store(f, b"1\n")
    os.chown(f, os.getuid(), os.getgid())
    os.chown(f, -1, -1)
    os.chown(PLAIN, os.getuid(), -1)
    os.chmod(PLAIN, 0o777)
    os.utime(PLAIN)


# Times, sizes and room


def the_time_is_the_last_stores():
    f = PLAIN + "t1"
    store(f, b"1\n")
    of_row = lambda: sql("SELECT max(_timestamp) * 1000 FROM t1")[0][0]
    assert os.stat(f).st_mtime_ns == of_row()
    fd = os.open(f, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"\n")
    written = os.stat(f).st_mtime_ns
    assert written > of_row()
    os.close(fd)
    assert os.stat(f).st_mtime_ns == of_row() >= written


def setting_times_changes_nothing():
    f = PLAIN + "t2"
    store(f, b"1\n")
    before = os.stat(f).st_mtime_ns
    os.utime(f, (1, 1))
    shell("touch t2; touch -d 2001-01-01 t2")
    assert (os.stat(f).st_mtime_ns, rows(f)) == (before, 1)


def directory_times_change():
    f = PLAIN + "t3"
    times = [(lambda s: (s.st_mtime_ns, s.st_ctime_ns))(os.stat(PLAIN))]
    for call in [
        lambda: store(f, b"1\n"),
        lambda: os.rename(f, f + "b"),
        lambda: os.unlink(f + "b"),
    ]:
        call()
        found = os.stat(PLAIN)
        times.append((found.st_mtime_ns, found.st_ctime_ns))
    assert times == sorted(set(times)), times
    ctime = lambda: os.stat(PLAIN + "t3c").st_ctime_ns
    store(PLAIN + "t3c", b"1\n")
    before = ctime()
    os.chmod(PLAIN + "t3c", 0o600)
    assert ctime() > before


def links_are_counted():
    store(PLAIN + "t4", b"1\n")
    fd = os.open(PLAIN + "t4", os.O_RDONLY)
    links = [os.stat(path).st_nlink for path in [TOP, PLAIN, SECRET, PLAIN + "t4"]]
    os.unlink(PLAIN + "t4")
    assert (links, os.fstat(fd).st_nlink) == ([4, 2, 2, 1], 0)
    os.close(fd)


def blocks_are_512_bytes():
    store(SECRET + "t5", b"x" * 1025)
    found = os.stat(SECRET + "t5")
    assert (found.st_blocks, found.st_blksize) == (3, 4096)


def df_tells_the_disks_room():
    here, disk = os.statvfs(SECRET), os.statvfs(STATE)
    assert here.f_blocks * here.f_frsize == disk.f_blocks * disk.f_frsize
    assert abs(here.f_bavail * here.f_frsize - disk.f_bavail * disk.f_frsize) < 1 << 30
    assert here.f_files == 2 * (2000 + 256)
    store(SECRET + "t6", b"x")
    assert os.statvfs(SECRET).f_ffree == here.f_ffree - 1
    shell(f"df {TOP} && df -i {TOP}")


# Locks, mappings and copies


def locks_work():
    f = PLAIN + "l1"
    store(f, b"1\n")
    for lock, free in [(fcntl.flock, fcntl.LOCK_UN), (fcntl.lockf, fcntl.LOCK_UN)]:
        with open(f, "r+b") as held:
            lock(held, fcntl.LOCK_EX)
            other = lambda: lock(open(f, "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert as_nobody(other) == "EAGAIN"
            lock(held, free)
            assert as_nobody(other) is None
    assert rows(f) == 1


def private_mappings_read():
    f = SECRET + "l2"
    for text in [b"one", b"other"]:
        store(f, text)
        with open(f, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
            assert mapped[:] == text
            mapped.close()


def vectors_and_copies_work():
    f, to = SECRET + "l3", SECRET + "l3copy"
    fd = os.open(f, os.O_RDWR | os.O_CREAT)
    assert os.writev(fd, [b"ab", b"cd"]) == 4
    buffers = [bytearray(3), bytearray(3)]
    assert os.preadv(fd, buffers, 0) == 4 and buffers == [b"abc", b"d\0\0"]
    os.close(fd)
    for copy in [
        lambda a, b: os.sendfile(b, a, 0, 9),
        lambda a, b: os.copy_file_range(a, b, 9),
        lambda a, b: splice(a, b),
    ]:
        a, b = os.open(f, os.O_RDONLY), os.open(to, NEW)
        assert copy(a, b) == 4
        os.close(a)
        os.close(b)
        assert read(to) == b"abcd"
    assert rows(to) == 3


def a_copy_is_of_the_last_store_before_the_open():
    f, to = SECRET + "l5", SECRET + ".l5"
    store(f, b"older")
    before = os.open(f, os.O_RDONLY)

    def copied(source):
        fd = os.open(to, NEW)
        os.sendfile(fd, source, 0, 9)
        os.close(fd)
        return read(to)

    writer = os.open(f, NEW)
    os.write(writer, b"newer")
    assert copied(before) == b"older"
    os.close(writer)
    after = os.open(f, os.O_RDONLY)
    assert copied(after) == b"newer" and copied(before) in [b"older", b"newer"]
    os.close(before)
    os.close(after)


def rlimit_fsize_is_kept():
    f = SECRET + "l4"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))
            fd = os.open(f, NEW)
            assert os.write(fd, b"abcdef") == 4
            fails(errno.EFBIG, os.write, fd, b"g")
            fails(errno.EFBIG, os.ftruncate, fd, 5)
            os.close(fd)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert read(f) == b"abcd"


def tools_work():
    files = lambda: {n: read(PLAIN + n) for n in os.listdir(PLAIN) if n.startswith("tool")}
    shell("echo 1 > tool; cp tool tool.cp; cp --sparse=always tool tool.sp; mv tool.cp tool.mv; install -m 640 tool tool.in")
    shell("dd if=tool of=tool.dd conv=fsync status=none; tee tool.tee < tool > /dev/null; echo 2 | tee -a tool.tee > /dev/null")
    shell("sed -i s/1/3/ tool.dd; sed -i.bak s/1/4/ tool.sp; sort -o tool.tee -r tool.tee; touch tool.new tool; truncate -s 1 tool.mv")
    shell("printf 'a\\nb\\n' | split -l 1 - tool.x; f=$(mktemp .toolXXXX); echo 5 > $f; chmod 644 $f; mv -f $f tool.mk; rm tool.xab")
    shell("cp tool tool~; echo 6 > .tool.swp; mv .tool.swp tool; cat tool tool~ > /dev/null")
    assert files() == {
        "tool": b"6\n", "tool~": b"1\n", "tool.mv": b"1", "tool.in": b"1\n", "tool.dd": b"3\n", "tool.sp": b"4\n",
        "tool.sp.bak": b"1\n", "tool.tee": b"2\n1\n", "tool.new": b"", "tool.xaa": b"a\n", "tool.mk": b"5\n",
    }, files()
    assert stat.S_IMODE(os.stat(PLAIN + "tool.in").st_mode) == 0o640


# Content of unencrypted/


def csv_is_taken():
    for i, text in enumerate([b"a,b\n1,2.5\n", b"\xef\xbb\xbfa,b\r\n1,2.5\r\n", b'"a","b"\n"1",2.5']):
        f = f"c1{i}"
        store(PLAIN + f, text)
        assert sql(f"SELECT CAST(a AS INTEGER), b FROM {f}") == [(1, 2.5)], text
    store(PLAIN + "c2", b"1,x\n")
    assert sql("SELECT column1, column2 FROM c2") == [(1, "x")]


def empty_lines_are_passed_over():
    store(PLAIN + "c3", b"\n\na\n\n1\n\n")
    assert sql("SELECT a FROM c3") == [(1,)]


def bad_csv_is_refused():
    f = PLAIN + "c4"
    long = b"x" * 201
    for text in [
        b"a\n1\n2\n", b"\n", b"a,b\n1\n", b"a,A\n1,2\n", b"_a\n1\n", long + b"\n1\n", b"a\tb\n1\n", b'"a', b'a"b\n',
        b"a\rb\n", b"a\0\n", b"\xff\n",
    ]:
        fails(errno.EINVAL, store, f, text)
    assert rows(f) == 0
