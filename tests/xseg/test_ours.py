# SPDX-License-Identifier: Apache-2.0
"""What is opened, followed or believed must be ours (xseg/ours.py)."""
import os
import socket

import pytest
from strangers import STRANGER, as_stranger, give, needs_root

from xseg import ours
from xseg.errors import NotOurs


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("what it says")
    return str(path)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "above" / "folder"
    path.mkdir(parents=True)
    return str(path)


def refusal(function, *words):
    """The sentence of a refusal."""
    with pytest.raises(NotOurs) as caught:
        function(*words)
    return str(caught.value)


# --- files

def test_a_file_of_ours_is_read(file):
    assert ours.read(file) == "what it says"


@needs_root
def test_a_strangers_file_is_not_read(file):
    said = refusal(ours.read, give(file))
    assert file in said and "nobody (uid 65534)" in said and "root" in said and "remove it" in said


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_not_read(file, mode):
    os.chmod(file, mode)
    assert f"chmod go-w {file}" in refusal(ours.read, file)


def test_a_link_in_a_files_place_is_not_followed(file, tmp_path):
    link = str(tmp_path / "link")
    os.symlink(file, link)
    for how in (os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_TRUNC):
        assert f"{link} is a symbolic link" in refusal(ours.open_file, link, how)
    os.symlink(str(tmp_path / "made"), link + "2")
    assert "symbolic link" in refusal(ours.open_file, link + "2", os.O_RDWR | os.O_CREAT)
    assert os.listdir(tmp_path).count("made") == 0 and ours.read(file) == "what it says"


def test_a_file_with_a_second_name_is_neither_read_nor_truncated(file):
    os.link(file, file + "2")
    for how in (os.O_RDONLY, os.O_WRONLY | os.O_TRUNC):
        assert "hard link" in refusal(ours.open_file, file, how)
    os.unlink(file + "2")
    assert ours.read(file) == "what it says"


@pytest.mark.parametrize("how", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT | os.O_TRUNC])
@pytest.mark.parametrize(("kind", "make"), [
    ("FIFO", os.mkfifo), ("folder", os.mkdir), ("socket", lambda path: socket.socket(socket.AF_UNIX).bind(path))])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, kind, make, how):
    path = str(tmp_path / "thing")
    make(path)
    assert f"{path} is a {kind}" in refusal(ours.open_file, path, how)


def test_a_file_that_is_made_is_for_its_owner_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        ours.replace(str(tmp_path / "a"), "text")
        ours.appending(str(tmp_path / "b")).close()
        ours.make_folder(str(tmp_path / "c"), 0o711)
    finally:
        os.umask(before)
    assert [oct(os.stat(tmp_path / name).st_mode & 0o777) for name in "abc"] == ["0o600", "0o600", "0o711"]


def test_replacing_a_file_follows_no_link_left_in_its_way(file, tmp_path):
    os.symlink(file, str(tmp_path / "new.new"))
    ours.replace(str(tmp_path / "new"), "other")
    assert ours.read(file) == "what it says" and ours.read(str(tmp_path / "new")) == "other"


# --- folders

def test_a_folder_of_ours_is_ours_also_by_way_of_a_link_of_ours(folder, tmp_path):
    link = str(tmp_path / "link")
    os.symlink("above/folder", link)
    ours.check_folder(link)
    assert ours.resolve(link + "/x/../y") == folder + "/y"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_folder_that_others_may_write_to_is_refused(folder, mode):
    os.chmod(folder, mode)
    assert f"chmod go-w {folder}" in refusal(ours.check_folder, folder)


def test_a_folder_below_one_in_which_others_may_rename_is_refused(folder):
    above = os.path.dirname(folder)
    os.chmod(above, 0o777)
    said = refusal(ours.check_folder, folder)
    assert f"chmod go-w {above}" in said and folder in said
    os.chmod(above, 0o1777)         # as /tmp is
    ours.check_folder(folder)


def test_a_sticky_folder_will_do_for_what_looks_at_each_thing_in_it(folder):
    os.chmod(folder, 0o1777)
    ours.check_folder(folder, sticky=True)
    os.chmod(folder, 0o777)
    assert folder in refusal(ours.check_folder, folder, True)


@needs_root
def test_a_strangers_folder_or_one_below_it_is_refused(folder):
    above = os.path.dirname(folder)
    give(above)
    assert f"below {above}, which belongs to nobody" in refusal(ours.check_folder, folder)
    os.chown(above, 0, 0)
    give(folder)
    assert f"{folder} belongs to nobody" in refusal(ours.check_folder, folder)


@needs_root
def test_a_strangers_link_is_not_followed(folder, tmp_path):
    os.chmod(tmp_path, 0o1777)
    link = str(tmp_path / "link")
    os.symlink(folder, link)
    give(link)
    assert f"{link} is a symbolic link of nobody" in refusal(ours.check_folder, link + "/deeper")


def test_links_in_a_circle_are_an_error(tmp_path):
    os.symlink("b", tmp_path / "a")
    os.symlink("a", tmp_path / "b")
    with pytest.raises(OSError, match="Too many levels"):
        ours.check_folder(str(tmp_path / "a"))


# --- who is at the other side

@needs_root
def test_a_strangers_server_is_not_spoken_to_and_roots_is(home):
    os.chmod(home, 0o777)
    path = f"{home}/socket"

    def listening():
        made = socket.socket(socket.AF_UNIX)
        made.bind(path)
        made.listen()
        return made

    with listening() as _, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        ours.check_server(client, path)
    os.unlink(path)
    theirs = os.dup(as_stranger_socket(listening))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert f"nobody (uid {STRANGER}) listens at {path}" in refusal(ours.check_server, client, path)
    os.close(theirs)


def as_stranger_socket(listening):
    """A descriptor of a socket that a stranger made listen: the kernel notes who did."""
    here, there = socket.socketpair()

    def does():
        made = listening()
        socket.send_fds(there, [b"."], [made.fileno()])

    as_stranger(does)
    return socket.recv_fds(here, 1, 1)[1][0]
