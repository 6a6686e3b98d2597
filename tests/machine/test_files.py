"""Where results go: through links, into FIFOs and devices, in place of files that keep their mode; or they are refused.

The oracle is what the system says of the names afterwards (lstat), and what a reader at the other end received.
"""

import json
import os
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from lanczos_saddle.machine.files import append_bytes, descriptor_of, replacing
from lanczos_saddle.machine.writable import check_apart, check_folder, check_writable
from lanczos_saddle.reports.records import append, read, write_json

ROOT = os.geteuid() == 0


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 16 pages of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True)
    if done.returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


WRITERS = {"document": lambda path, n: write_json(path, {"n": n}), "record": lambda path, n: append(path, {"n": n})}


def last(path):
    return json.loads(path.read_text().splitlines()[-1] if path.suffix == ".jsonl" else path.read_text())["n"]


@pytest.fixture(params=WRITERS)
def writer(request):
    return WRITERS[request.param]


@pytest.fixture
def suffix(request, writer):
    return ".jsonl" if writer is WRITERS["record"] else ".json"


@pytest.mark.parametrize("there", [True, False])
def test_links_stay_and_what_they_lead_to_is_written(tmp_path, writer, suffix, there):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / f"target{suffix}"
    if there:
        writer(target, 0)
    (tmp_path / "relative").symlink_to(os.path.join("elsewhere", target.name))
    (tmp_path / "chain").symlink_to(tmp_path / "relative")
    for name, n in (("relative", 1), ("chain", 2)):
        writer(tmp_path / name, n)
        assert (tmp_path / name).is_symlink()
        assert last(target) == n
    assert names(tmp_path) == ["chain", "elsewhere", f"elsewhere/target{suffix}", "relative"]


def test_the_mode_of_a_file_is_kept_and_new_ones_have_that_of_the_umask(tmp_path, writer):
    path = tmp_path / "result"
    before = os.umask(0o027)
    try:
        writer(path, 1)
    finally:
        os.umask(before)
    assert mode_of(path) == 0o640
    for mode in (0o600, 0o666, 0o755):
        path.chmod(mode)
        writer(path, 2)
        assert mode_of(path) == mode


@pytest.mark.skipif(not ROOT, reason="only root gives files away")
def test_the_owner_of_a_file_is_kept(tmp_path, writer):
    path = tmp_path / "result"
    writer(path, 1)
    os.chown(path, 1234, 2345)
    writer(path, 2)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_all_names_of_a_file_show_the_result(tmp_path, writer, suffix):
    path, other = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    path.write_text('{"n": 0}\n' + " " * 4000)  # longer than what comes
    path.write_text('{"n": 0}\n')
    os.link(path, other)
    writer(path, 1)
    assert path.samefile(other)
    assert last(other) == 1


def test_a_shorter_result_leaves_nothing_of_a_longer_one_behind(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("x" * 4000)
    os.link(path, tmp_path / "b.json")
    write_json(path, {"n": 1})
    assert json.loads((tmp_path / "b.json").read_text()) == {"n": 1}


def test_a_fifo_gets_the_bytes_and_stays(tmp_path, writer):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to(fifo)
    for path in (fifo, tmp_path / "link"):
        received = []
        reader = threading.Thread(target=lambda received=received: received.append(fifo.read_text()))
        reader.start()
        writer(path, 3)
        reader.join(timeout=10)
        assert json.loads(received[0]) == {"n": 3}
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert names(tmp_path) == ["fifo", "link"]


def test_a_device_stays_one(tmp_path, writer):
    node = tmp_path / "null"
    try:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        node.write_bytes(b"")
    except OSError as error:
        pytest.skip(f"no device can be made here: {error}")
    writer(node, 1)
    assert stat.S_ISCHR(node.lstat().st_mode)
    with pytest.raises(OSError, match="No space left"):
        writer("/dev/full", 1)
    assert stat.S_ISCHR(os.lstat("/dev/full").st_mode)


def test_an_open_descriptor_is_written_where_it_stands(tmp_path, writer):
    """Not from the start of its file, and not in its place: what was written before it stays."""
    with (tmp_path / "log").open("w+") as file:
        file.write("before\n")
        file.flush()
        inode = os.fstat(file.fileno()).st_ino
        writer(f"/dev/fd/{file.fileno()}", 1)
        file.write("after\n")
    text = (tmp_path / "log").read_text()
    assert (tmp_path / "log").stat().st_ino == inode
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert json.loads(text.removeprefix("before\n").removesuffix("after\n")) == {"n": 1}
    assert descriptor_of("/dev/stdout") == 1
    assert descriptor_of(tmp_path / "log") is None


def test_a_pipe_whose_reader_has_gone_is_a_failure_with_its_name(writer):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with pytest.raises(OSError, match=f"the reader of /dev/fd/{write_end} has gone"):
        writer(f"/dev/fd/{write_end}", 1)
    os.close(write_end)


def test_a_full_disk_leaves_the_old_file_whole(tiny_disk, writer, suffix):
    path = tiny_disk / f"r{suffix}"
    writer(path, 0)
    before = path.read_bytes()
    for link in (None, tiny_disk / "other"):  # in place of the name, and in place
        if link:
            os.link(path, link)
        with pytest.raises(OSError, match="No space left"):
            writer(path, "x" * 70_000)
        assert path.read_bytes() == before
    assert names(tiny_disk) == sorted(["other", path.name])
    with pytest.raises(OSError, match="No space left"):
        writer(tiny_disk / "new", "x" * 70_000)
    assert not (tiny_disk / "new").exists()
    writer(path, 1)
    assert last(path) == 1


def test_room_is_reserved_before_a_file_of_two_names_is_touched(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"n": 0})
    os.link(path, tmp_path / "b.json")
    before = path.read_bytes()

    def full(descriptor, start, length):
        os.ftruncate(descriptor, length)  # as the system may leave it
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"n": "x" * 4000})
    assert path.read_bytes() == before


def test_a_failed_flush_takes_the_line_back(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    append(path, {"n": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        append(path, {"n": 2})
    assert [record["n"] for record in read(path)] == [1]


def test_the_line_of_another_writer_is_never_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    append(path, {"n": 1})
    real = os.write

    def full(descriptor, content):  # another process was faster, and took the last room
        with path.open("ab", buffering=0) as other:
            real(other.fileno(), b'{"n": 2}\n')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        append(path, {"n": "x" * 1000})
    assert [record["n"] for record in read(path)] == [1, 2]


def test_a_mount_point_is_written_in_place(tmp_path):
    """A single file mounted into a container cannot be renamed over."""
    inside, outside = tmp_path / "inside.json", tmp_path / "outside.json"
    for path in (inside, outside):
        write_json(path, {"n": 0})
    if subprocess.run(["mount", "--bind", outside, inside], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        write_json(inside, {"n": 1})
    finally:
        subprocess.run(["umount", inside], check=True)
    assert json.loads(outside.read_text()) == {"n": 1}
    assert names(tmp_path) == ["inside.json", "outside.json"]


def test_the_longest_name_that_the_system_takes_is_written(tmp_path, writer):
    path = tmp_path / ("x" * 255)
    check_writable(path)
    writer(path, 1)
    writer(path, 2)
    assert names(tmp_path) == [path.name]


def test_a_name_that_is_not_text_is_written(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.json")
    write_json(path, {"file": path})
    assert json.loads(Path(path).read_bytes())["file"] == path


def test_a_temporary_keeps_the_suffix_and_is_private_where_the_file_is(tmp_path):
    path = tmp_path / "secret.npz"
    path.write_bytes(b"")
    path.chmod(0o600)
    with replacing(path) as temporary:
        assert temporary.suffix == ".npz"
        assert mode_of(temporary) == 0o600
        temporary.write_bytes(b"x")


# refused before the work


def _places(folder):
    """Names that cannot be results, and why."""
    (folder / "file").write_text("kept")
    (folder / "dir").mkdir()
    (folder / "loop").symlink_to("pool")
    (folder / "pool").symlink_to("loop")
    (folder / "to_dir").symlink_to("dir")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket"))
    return {
        "": "is empty",
        "a\0b": "has a NUL in it",
        "dir": "is a folder",
        "dir/": "is a folder",
        "to_dir": "is a folder",
        ".": "is a folder",
        "new/": "names a folder",
        "file/x": "Not a directory",
        "file/x/y": "Not a directory",
        "loop": "Too many levels",
        "loop/x": "Too many levels",
        "x" * 256: "File name too long",
        "new/" + "x" * 256: "File name too long",
        "x" * 256 + "/y": "File name too long",
        "socket": "is a socket",
        "/proc/x": "cannot be written",
        "/proc/x/y.json": "cannot be written",
        "/dev/fd/999": "Bad file descriptor",
        "/dev/stdin/x": "cannot be written",
    }


def test_names_that_cannot_be_results_are_refused_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = _places(tmp_path)
    before = names(tmp_path)
    for name, reason in places.items():
        with pytest.raises(ValueError, match="a file in a writable folder") as refused:
            check_writable(name)
        assert reason in str(refused.value), name
        assert "\n" not in str(refused.value)
    assert names(tmp_path) == before
    assert (tmp_path / "file").read_text() == "kept"


def test_asking_leaves_nothing_behind_and_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dangling").symlink_to("nowhere/at/all")
    os.mkfifo(tmp_path / "fifo")  # nobody reads it: to open it would wait
    before, changed = names(tmp_path), (tmp_path / "file").stat().st_mtime_ns
    for name in ("file", "new", "a/b/c.json", "dangling", "fifo", "/dev/null", "/dev/full", "a/../b.json"):
        check_writable(name)
    check_folder("a/b")
    assert names(tmp_path) == before
    assert (tmp_path / "file").stat().st_mtime_ns == changed


@pytest.mark.parametrize("folder", ["file", "file/x", "/proc/x", "", "loop", "x" * 256])
def test_folders_that_cannot_be_made_are_refused(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    _places(tmp_path)
    with pytest.raises(ValueError, match="written into a writable folder"):
        check_folder(folder)


def test_a_read_only_place_is_refused_and_a_file_of_it_too(tmp_path):
    (tmp_path / "file").write_text("")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (tmp_path / "file").write_text("kept")
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        for name in ("new", "file", "a/b"):
            with pytest.raises(ValueError, match="Read-only file system"):
                check_writable(tmp_path / name)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_without_permission_it_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "file").chmod(0o400)
    with pytest.raises(ValueError, match="Permission denied"):
        check_writable(tmp_path / "file")
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="Permission denied"):
        check_writable(tmp_path / "new")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("other", ["a", "./a", "b/../a", "link", "hard", "dangling", "new", "loop/../new"])
def test_two_results_are_not_one_file(tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("")
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dangling").symlink_to("new")
    os.link("a", "hard")
    first = "new" if other in ("dangling", "new", "loop/../new") else "a"
    with pytest.raises(ValueError, match="a file of its own; --json and --record both name"):
        check_apart({"--json": first, "--record": other}, {})
    with pytest.raises(ValueError, match="a file of its own; the input and --json both name"):
        check_apart({"--json": other}, {"the input": first})
    check_apart({"--json": first, "--record": "c", "--state": "/dev/null", "--output": "/dev/null"}, {})


def test_append_bytes_to_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "r"
    append_bytes(path, b"1\n")
    path.chmod(0o200)
    append_bytes(path, b"2\n")
    path.chmod(0o600)
    assert path.read_bytes() == b"1\n2\n"
