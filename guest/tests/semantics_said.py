"""Tries on a mounted partition what the sentences of docs/SEMANTICS.md say: a function each, named in the
document, here and in semantics_posix.py. Prints what went wrong with each as JSON; null: nothing. Those that begin with
after_remount_ are called in a second run, after the partition was mounted anew."""
import errno, json, os, sqlite3, stat, sys, threading, traceback

import semantics_posix
from semantics_lib import *


# A store


def a_store_is_a_row_when_the_call_returns():
    store(PLAIN + "s1", b"v\n7\n")
    assert sql("SELECT v FROM s1") == [(7,)]
    store(SECRET + "s1", b"\x00\xff")
    assert sql("SELECT data FROM s1", "encrypted") == [(b"\x00\xff",)]


def a_close_after_a_change_stores():
    f = PLAIN + "s2"
    for _ in range(3):
        store(f, b"1\n")
    assert rows(f) == 3
    fd = os.open(f, os.O_WRONLY)
    os.ftruncate(fd, 1)
    os.close(fd)
    assert rows(f) == 4


def fsync_stores_and_the_close_does_not_again():
    f = PLAIN + "s3"
    fd = os.open(f, NEW)
    for i, sync in enumerate([os.fsync, os.fdatasync]):
        os.pwrite(fd, b"%d\n" % i, 0)
        sync(fd)
        assert rows(f) == i + 1
    os.close(fd)
    assert rows(f) == 2


def rename_onto_a_name_stores():
    f = PLAIN + "s4"
    store(PLAIN + ".s4", b"1\n")
    os.rename(PLAIN + ".s4", f)
    store(PLAIN + "s4.new", b"2\n")
    os.rename(PLAIN + "s4.new", f)
    assert (rows(f), read(f), rows(PLAIN + "s4.new")) == (2, b"2\n", 1)
    assert not os.path.exists(PLAIN + "s4.new") and not os.path.exists(PLAIN + ".s4")


def truncate_by_path_stores():
    f = PLAIN + "s5"
    store(f, b"12\n")
    os.truncate(f, 1)
    assert (rows(f), read(f), os.stat(f).st_size) == (2, b"1", 1)


def nothing_and_empty_store_nothing():
    f = PLAIN + "s6"
    store(f, b"1\n")
    os.close(os.open(f, os.O_WRONLY))
    os.close(os.open(f, NEW))
    os.truncate(f, 0)
    fd = os.open(f, os.O_RDWR)
    os.ftruncate(fd, 0)
    os.fsync(fd)
    os.close(fd)
    assert (rows(f), read(f), os.stat(f).st_size) == (1, b"1\n", 2)


def echo_is_one_row():
    shell("echo 1 > s7; echo 2 > s7")
    assert rows(PLAIN + "s7") == 2


def rows_are_the_calls_that_returned_0():
    f, returned = PLAIN + "s8", 0
    for text in [b"1\n", b'"', b"a,b\n1\n", b"2\n", b"", b"\xff"]:
        try:
            store(f, text)
            returned += bool(text)
        except OSError:
            pass
    assert (rows(f), returned) == (2, 2)


def the_whole_file_is_stored():
    f = SECRET + "s9"
    store(f, b"abc")
    store(f, b"X", os.O_WRONLY)
    assert sql("SELECT data FROM s9", "encrypted") == [(b"abc",), (b"Xbc",)]


def o_trunc_begins_with_nothing():
    f = PLAIN + "s10"
    store(f, b"123\n")
    store(f, b"4\n")
    assert read(f) == b"4\n"
    store(f, b"5", os.O_WRONLY)
    assert read(f) == b"5\n"
    fd = os.open(f, os.O_RDONLY | os.O_TRUNC)
    assert (os.read(fd, 9), os.fstat(fd).st_size) == (b"", 0)
    os.close(fd)
    assert (read(f), rows(f)) == (b"5\n", 3)


def o_append_adds_to_the_end():
    f = SECRET + "s11"
    store(f, b"a")
    one, two = (os.open(f, os.O_RDWR | os.O_APPEND) for _ in range(2))
    os.lseek(one, 0, os.SEEK_SET)
    os.write(one, b"b")
    os.pwrite(one, b"c", 0)
    os.fsync(one)
    os.write(two, b"d")
    os.close(two)
    os.close(one)
    assert read(f) == b"abcd"


def holes_are_nul():
    f = SECRET + "s12"
    fd = os.open(f, NEW)
    os.pwrite(fd, b"a", 3)
    os.ftruncate(fd, 6)
    os.close(fd)
    assert read(f) == b"\0\0\0a\0\0"


def a_duplicate_stores_at_each_close():
    f = PLAIN + "s13"
    fd = os.open(f, NEW)
    twin = os.dup(fd)
    os.write(fd, b"1")
    os.close(twin)
    assert rows(f) == 1
    os.write(fd, b"2")
    if os.fork() == 0:
        os.close(fd)
        os._exit(0)
    os.wait()
    assert rows(f) == 2
    os.close(fd)
    assert (rows(f), read(f)) == (2, b"12")


def a_half_written_file_may_be_completed():
    f = PLAIN + "s14"
    refused = lambda: sql("SELECT count(*) FROM \".refused\" WHERE name = 's14'")[0][0]
    fd = os.open(f, NEW)
    twin = os.dup(fd)
    os.write(fd, b"a,b\n1")
    fails(errno.EINVAL, os.close, twin)
    assert (rows(f), refused()) == (0, 1)
    os.write(fd, b",2\n")
    os.close(fd)
    assert (rows(f), refused(), read(f)) == (1, 0, b"a,b\n1,2\n")


def a_failed_store_is_tried_again_by_the_next_close_alone():
    f = PLAIN + "s15"
    other = sqlite3.connect(f"{STATE}/unencrypted.db", isolation_level=None)
    fd = os.open(f, NEW)
    os.write(fd, b"1\n")
    other.execute("BEGIN IMMEDIATE")
    fails(errno.EAGAIN, os.fsync, fd)
    other.execute("ROLLBACK")
    store(PLAIN + "s15other", b"1\n")
    assert rows(f) == 0
    os.close(fd)
    assert rows(f) == 1


# What is seen meanwhile


def a_clean_handle_sees_the_last_store():
    f = SECRET + "m1"
    store(f, b"one")
    fd = os.open(f, os.O_RDWR)
    assert os.pread(fd, 9, 0) == b"one"
    store(f, b"other")
    assert os.pread(fd, 9, 0) == b"other"
    os.pwrite(fd, b"O", 0)
    os.close(fd)
    assert read(f) == b"Other"


def a_handle_reads_what_it_wrote():
    fd = os.open(SECRET + "m2", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"abc")
    assert (os.pread(fd, 9, 1), os.fstat(fd).st_size) == (b"bc", 3)
    os.close(fd)


def two_writers_are_two_rows():
    f = SECRET + "m3"
    store(f, b"old")
    one, two = os.open(f, os.O_WRONLY | os.O_TRUNC), os.open(f, os.O_WRONLY | os.O_TRUNC)
    os.write(one, b"one")
    os.write(two, b"two")
    assert read(f) == b"old"
    os.close(two)
    assert read(f) == b"two"
    os.close(one)
    assert (read(f), rows(f)) == (b"one", 3)


def one_read_is_one_store():
    f = SECRET + "m4"
    texts = [b"a" * 50_000, b"b" * 50_000]
    store(f, texts[0])

    def write():
        for i in range(100):
            store(f, texts[i % 2])

    writer = threading.Thread(target=write)
    writer.start()
    fd = os.open(f, os.O_RDONLY)
    while writer.is_alive():
        assert os.pread(fd, 60_000, 0) in texts
    os.close(fd)


def stat_shows_the_latest_draft():
    f = SECRET + "m5"
    store(f, b"12345")
    size = lambda: os.stat(f).st_size
    one = os.open(f, os.O_WRONLY | os.O_TRUNC)
    assert size() == 0
    os.write(one, b"12")
    two = os.open(f, os.O_RDWR)
    assert (size(), os.fstat(two).st_size, os.lseek(two, 0, os.SEEK_END), read(f)) == (2, 2, 2, b"12345")
    os.ftruncate(two, 9)
    assert size() == 9
    os.write(one, b"3")
    assert size() == 3
    os.close(one)
    assert size() == 9
    os.close(two)
    assert size() == 9


def a_dropped_draft_is_forgotten():
    f = PLAIN + "m6"
    store(f, b"1\n")
    # Again and again: the kernel tells of a handle's end after the close has returned.
    for _ in range(200):
        fd = os.open(f, os.O_WRONLY | os.O_TRUNC)
        os.write(fd, b'"half')
        assert os.stat(f).st_size == 5
        fails(errno.EINVAL, os.close, fd)
        assert os.stat(f).st_size == 2
        fd = os.open(f, os.O_WRONLY | os.O_TRUNC)
        assert os.fstat(fd).st_size == 0
        os.close(fd)
        assert os.stat(f).st_size == 2
    assert read(f) == b"1\n"


def after_remount_bytes_size_time_and_mode_are_there():
    f = SECRET + "m7"
    found = os.stat(f)
    before = json.loads(read(f))
    assert before == [0o640], before
    assert stat.S_IMODE(found.st_mode) == 0o640 and found.st_size == 5
    (time_us,) = sql("SELECT max(_timestamp) FROM m7", "encrypted")[0]
    assert found.st_mtime_ns == time_us * 1000


def before_remount():
    f = SECRET + "m7"
    store(f, b"x")
    os.chmod(f, 0o640)
    store(f, json.dumps([0o640]).encode())
    os.close(os.open(PLAIN + "m8gone", NEW))
    store(PLAIN + ".m9gone", b"1\n")


def a_file_never_stored_is_empty():
    f = PLAIN + "m8"
    fd = os.open(f, NEW)
    os.write(fd, b"1\n")
    assert (read(f), os.listdir(PLAIN).count("m8")) == (b"", 1)
    os.close(fd)
    assert read(f) == b"1\n"


def after_remount_a_file_never_stored_is_gone():
    assert not os.path.exists(PLAIN + "m8gone") and "m8gone" not in os.listdir(PLAIN)


# Removed and replaced files


def removing_keeps_rows():
    f = PLAIN + "r1"
    store(f, b"1\n")
    os.unlink(f)
    assert not os.path.exists(f) and rows(f) == 1
    store(f, b"2\n")
    assert sql("SELECT _seq, column1 FROM r1") == [(1, 1), (2, 2)]


def a_removed_file_goes_on_for_its_handles():
    for gone in [lambda f: os.unlink(f), lambda f: (store(SECRET + ".r2", b"new"), os.rename(SECRET + ".r2", f))]:
        f = SECRET + "r2"
        store(f, b"abc")
        fd, reader = os.open(f, os.O_RDWR), os.open(f, os.O_RDONLY)
        gone(f)
        assert (os.fstat(fd).st_nlink, os.fstat(fd).st_size, os.read(reader, 9)) == (0, 3, b"abc")
        os.pwrite(fd, b"de", 3)
        assert (os.pread(fd, 9, 0), os.lseek(fd, 0, os.SEEK_END)) == (b"abcde", 5)
        os.ftruncate(fd, 4)
        os.fsync(fd)
        assert (os.pread(reader, 9, 0), os.fstat(reader).st_size) == (b"abcd", 4)
        os.close(fd)
        os.close(reader)


def a_store_to_a_removed_file_is_a_row_alone():
    f = SECRET + "r3"
    for known in [False, True]:
        before = rows(f)
        fd = os.open(f, NEW)
        os.write(fd, b"last")
        os.unlink(f)
        os.close(fd)
        assert not os.path.exists(f) and rows(f) == before + 1
        fd = os.open(f, NEW)
        os.write(fd, b"late")
        store(SECRET + ".r3", b"new")
        os.rename(SECRET + ".r3", f)
        os.close(fd)
        assert (read(f), rows(f), os.stat(f).st_size) == (b"new", before + 3, 3)
    assert sql("SELECT data FROM r3", "encrypted")[-1] == (b"late",)


def a_close_stores_under_the_new_name():
    for name in ["r4a", ".r4a"]:
        fd = os.open(PLAIN + name, NEW)
        os.write(fd, b"1\n")
        os.rename(PLAIN + name, PLAIN + "r4b")
        os.close(fd)
    assert (rows(PLAIN + "r4a"), rows(PLAIN + "r4b"), read(PLAIN + "r4b")) == (0, 2, b"1\n")


def renaming_an_empty_file_keeps_the_names_bytes():
    f = PLAIN + "r5"
    store(f, b"1\n")
    for empty in [PLAIN + "r5new", PLAIN + ".r5new"]:
        fd = os.open(empty, NEW)
        os.write(fd, b"2\n")
        os.rename(empty, f)
        assert (read(f), rows(f)) == (b"1\n", 1)
        os.ftruncate(fd, 0)
        os.close(fd)
        assert (read(f), rows(f), os.stat(f).st_size) == (b"1\n", 1, 2)


if __name__ == "__main__":
    outcome = {}
    for module in [sys.modules["__main__"], semantics_posix]:
        for name, test in list(vars(module).items()):
            ours = getattr(test, "__module__", None) == module.__name__
            if ours and name.startswith("after_remount_") == (PHASE == "after"):
                try:
                    outcome[name] = test()
                except Exception:
                    outcome[name] = traceback.format_exc()
    json.dump(outcome, sys.stdout)
