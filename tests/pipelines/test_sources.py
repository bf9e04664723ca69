"""Folders, files and objects: what is read, what is skipped, and what ends a run."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pipelines import file_state, source_files
from pipelines.documents import Document, RejectedDocument
from pipelines.errors import SourceError, TerminalError
from pipelines.sources import MemorySource, Source, open_source


def write(folder, **files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def ids(source):
    return [document.id for document in source.documents()]


def rejections(source):
    return {item.id: (item.stage, item.reason) for item in source.documents() if isinstance(item, RejectedDocument)}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "docs"
    return write(
        root,
        **{
            "b.txt": "b",
            "a/z.md": "# Z\n\ntext",
            "a/a.txt": "aa",
            "A.rst": "T\n=\n",
            "a-b/c.py": "x = 1\n",
            "README": "r",
        },
    )


def test_folder_documents_are_named_by_relative_path_in_sorted_order(folder):
    source = open_source(folder)
    assert isinstance(source, Source)
    assert ids(source) == ["A.rst", "README", "b.txt", "a/a.txt", "a/z.md", "a-b/c.py"]
    assert ids(source) == ids(source)


def test_folder_documents_say_the_same_wherever_the_folder_is(folder, tmp_path):
    moved = tmp_path / "elsewhere"
    before = list(open_source(folder).documents())
    folder.rename(moved)
    assert [item.content_hash for item in before] == [item.content_hash for item in open_source(str(moved)).documents()]


def test_folder_document_has_title_headings_and_format(folder):
    by_id = {document.id: document for document in open_source(folder).documents()}
    assert by_id["a/z.md"].title == "Z"
    assert by_id["a/z.md"].format == "markdown"
    assert by_id["a/z.md"].headings[0].title == "Z"
    assert by_id["a-b/c.py"].title == "c.py"
    assert by_id["b.txt"].title == ""
    assert by_id["b.txt"].source == "b.txt"


def test_folder_skips_are_counted_by_reason_and_counted_anew_each_time(folder):
    write(folder, **{".hidden": "x", ".git/config.txt": "x", "a.jpg": b"\xff", "b.JPG": b"\xff", "noise": "x"})
    (folder / "linked").symlink_to(folder / "a", target_is_directory=True)
    source = open_source(folder)
    assert len(ids(source)) == 6
    assert len(ids(source)) == 6
    assert source.skipped == {"hidden": 2, ".jpg": 2, "no suffix": 1, "link to a folder": 1}


def test_folder_symlink_loop_ends_and_linked_file_is_read(folder):
    (folder / "a" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / "link.txt").symlink_to(folder / "b.txt")
    source = open_source(folder)
    assert len(ids(source)) == 8
    assert set(rejections(source)) == {"self.txt"}


def test_folder_linked_to_is_read_as_the_folder_itself(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder, target_is_directory=True)
    assert ids(open_source(link)) == ids(open_source(folder))


def test_folder_pipe_and_socket_are_skipped_without_waiting(folder):
    os.mkfifo(folder / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket.txt"))
        source = open_source(folder)
        assert len(ids(source)) == 6
    assert source.skipped == {"no regular file": 2}


def test_folder_broken_link_is_rejected_and_the_rest_goes_on(folder):
    (folder / "gone.txt").symlink_to(folder / "nowhere.txt")
    source = open_source(folder)
    assert rejections(source) == {
        "gone.txt": ("read", "cannot be read: No such file or directory; make it readable or remove it")
    }
    assert len(ids(source)) == 7


def test_folder_unreadable_file_is_rejected_and_the_rest_goes_on(folder, monkeypatch):
    read_bytes = Path.read_bytes

    def refuse(path):
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    source = open_source(folder)
    assert rejections(source)["a/a.txt"][0] == "read"
    assert "Permission denied" in rejections(source)["a/a.txt"][1]
    assert len(ids(source)) == 6


def change_while_read(monkeypatch, name, times, content=b"xx"):
    """Write into a file just after each of its first readings, as its owner might."""
    read_bytes = Path.read_bytes
    left = [times]

    def read(path):
        data = read_bytes(path)
        if path.name == name and left[0]:
            left[0] -= 1
            path.write_bytes(data + content)
        return data

    monkeypatch.setattr(Path, "read_bytes", read)
    monkeypatch.setattr(file_state, "sleep", lambda seconds: None)


def test_folder_file_that_changes_while_it_is_read_is_read_again(folder, monkeypatch):
    change_while_read(monkeypatch, "a.txt", times=2)
    (document,) = [found for found in open_source(folder).documents() if found.id == "a/a.txt"]
    assert document.text == "aaxxxx"


def test_folder_file_that_goes_on_changing_is_rejected_and_the_rest_goes_on(folder, monkeypatch):
    change_while_read(monkeypatch, "a.txt", times=100)
    source = open_source(folder)
    reason = "changed during each of 4 readings; run again when nobody writes it"
    assert rejections(source) == {"a/a.txt": ("read", reason)}
    assert len(ids(source)) == 6


@pytest.mark.parametrize("change", ["rename", "same size"])
def test_folder_file_replaced_while_it_is_read_is_read_again(folder, monkeypatch, change):
    """Neither another file of the same size and time, nor another content of the same size, goes unseen."""
    path = folder / "b.txt"
    os.utime(path, ns=(10**18, 10**18))
    read_bytes = Path.read_bytes

    def read(found):
        data = read_bytes(found)
        if found == path and data == b"b":
            new = folder / "new" if change == "rename" else path
            new.write_bytes(b"c")
            if change == "rename":
                os.utime(new, ns=(10**18, 10**18))
                new.rename(path)
        return data

    monkeypatch.setattr(Path, "read_bytes", read)
    assert {found.id: found.text for found in open_source(folder).documents()}["b.txt"] == "c"


def test_file_that_goes_on_changing_is_an_error(folder, monkeypatch):
    change_while_read(monkeypatch, "b.txt", times=100)
    with pytest.raises(SourceError, match=r"b\.txt changed during each of 4 readings; run again"):
        ids(open_source(folder / "b.txt"))


def test_folder_file_that_vanishes_after_the_listing_is_rejected_and_not_passed_over(folder):
    """It may be in the middle of being saved; passed over it would count as deleted."""
    documents = open_source(folder).documents()
    next(documents)
    (folder / "b.txt").unlink()
    found = {document.id: document for document in documents}
    assert found["b.txt"].reason == "cannot be read: No such file or directory; make it readable or remove it"


def test_folder_that_cannot_be_listed_is_an_error_and_never_empty(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(source_files.os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"folder .*/a cannot be listed: Permission denied.*nothing is deleted"):
        ids(open_source(folder))


def test_folder_undecodable_binary_and_bad_names_are_rejected_by_stage(folder):
    write(folder, **{"latin.txt": "café".encode("latin-1"), "binary.txt": b"\x00\x01"})
    odd = os.fsencode(folder) + b"/bad\xff.txt"
    with open(odd, "wb") as file:
        file.write(b"fine inside")
    found = rejections(open_source(folder))
    assert found["latin.txt"][0] == "parse"
    assert "save it as UTF-8" in found["latin.txt"][1]
    assert found["binary.txt"][0] == "parse"
    assert "binary file" in found["binary.txt"][1]
    assert found["bad\\udcff.txt"] == ("read", "the file's name is not UTF-8; rename it")


def test_folder_rejection_hash_changes_with_the_file(folder):
    def bad_hash():
        return next(item.content_hash for item in open_source(folder).documents() if item.id == "bad.txt")

    write(folder, **{"bad.txt": b"\xff1"})
    first = bad_hash()
    assert bad_hash() == first
    write(folder, **{"bad.txt": b"\xff2"})
    assert bad_hash() != first


def test_folder_names_with_newline_and_unicode_forms_are_different_documents(tmp_path):
    write(tmp_path, **{"a\nb.txt": "1", "e\u0301.txt": "2", "\u00e9.txt": "3"})
    assert ids(open_source(tmp_path)) == ["a\nb.txt", "e\u0301.txt", "\u00e9.txt"]


def test_folder_empty_or_with_nothing_known_is_an_error_that_counts(tmp_path):
    with pytest.raises(SourceError, match=r"nothing to index in .*: it is empty; legal suffixes are .*\.md .*\.txt"):
        ids(open_source(tmp_path))
    write(tmp_path, **{"a.jpg": b"", "b.jpg": b"", ".x": b""})
    with pytest.raises(SourceError, match=r"skipped 2 \.jpg, 1 hidden"):
        ids(open_source(tmp_path))


def test_folder_is_read_one_file_at_a_time(folder, monkeypatch):
    reads = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path.name) or read_bytes(path))
    documents = open_source(folder).documents()
    next(documents)
    assert reads == ["A.rst"]


def test_file_of_any_suffix_is_one_document_named_by_its_name(tmp_path):
    write(tmp_path, **{"notes.weird": "text", "page.md": "# T\n"})
    (notes,) = open_source(tmp_path / "notes.weird").documents()
    (page,) = open_source(str(tmp_path / "page.md")).documents()
    assert (notes.id, notes.text, notes.source) == ("notes.weird", "text", "notes.weird")
    assert page.title == "T"


def test_file_binary_is_rejected(tmp_path):
    write(tmp_path, **{"a.bin": b"\x00"})
    (rejected,) = open_source(tmp_path / "a.bin").documents()
    assert rejected.stage == "parse"


def test_file_that_vanished_is_an_error(tmp_path):
    source = open_source(write(tmp_path, **{"a.txt": "x"}) / "a.txt")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(SourceError, match=r"a\.txt cannot be read: No such file"):
        ids(source)


def test_path_that_is_missing_or_no_file_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="no file or folder at /no/such/path; check the path"):
        open_source("/no/such/path")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="is no regular file"):
        open_source(tmp_path / "pipe")
    assert issubclass(SourceError, TerminalError)


def test_path_with_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(write(tmp_path, **{"a.txt": "x"})))
    assert ids(open_source("~/a.txt")) == ["a.txt"]


def test_memory_documents_are_read_twice_and_may_be_none():
    documents = [Document("a", "x", "s"), RejectedDocument("b", "s", "0", "read", "r")]
    source = open_source(documents)
    assert isinstance(source, MemorySource)
    assert ids(source) == ids(source) == ["a", "b"]
    assert ids(open_source([])) == []


def test_memory_generator_is_refused_because_it_reads_once():
    with pytest.raises(SourceError, match=r"a generator can be read only once.*pass a list"):
        open_source(document for document in [])


def test_memory_of_other_objects_is_refused_with_advice():
    with pytest.raises(SourceError, match=r"a source holds dict .*wrap each text as pipelines\.Document"):
        ids(open_source([{"id": "a"}]))
    with pytest.raises(SourceError, match="source is int; legal are a path"):
        open_source(7)


def test_object_with_documents_is_taken_as_it_is():
    class Own:
        description = "own"

        def documents(self):
            yield Document("a", "x", "s")

    own = Own()
    assert open_source(own) is own


@pytest.mark.parametrize("what", ["folder", "file", "list"])
def test_field_names_without_records_are_refused(tmp_path, what):
    path = write(tmp_path, **{"a.txt": "x"})
    source = {"folder": path, "file": path / "a.txt", "list": []}[what]
    with pytest.raises(SourceError, match="has no fields to choose; --id-field"):
        open_source(source, id_field="key")
