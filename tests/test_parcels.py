"""Files and folders between machines: everything arrives as it was, or nothing does."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecc.core.errors import InputError
from ecc.sweeps.engines import parcels
from ecc.sweeps.engines.parcels import Damaged, Item, Listing, Receiver, listing, pieces, place

NAMES = st.lists(st.sampled_from(["a", "b", "c.txt", "é", " x"]), min_size=1, max_size=3).map("/".join)


def send(path, folder):
    """What a machine sends, as another one gets it."""
    told = Listing.from_json(listing(path).to_json())
    receiver = Receiver([told], folder)
    for piece in pieces(told):
        receiver.take(piece)
    return told, receiver


@settings(deadline=None, max_examples=40)
@given(files=st.dictionaries(NAMES, st.binary(max_size=9), max_size=5))
def test_a_folder_arrives_as_it_was(files, tmp_path_factory):
    base = tmp_path_factory.mktemp("parcel")
    there = base / "there"
    there.mkdir()
    for name, content in files.items():
        file = there / name
        if file.exists() or any(parent.is_file() for parent in file.parents):
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parcels, "PIECE_BYTES", 4)  # so that files come in several
        told, receiver = send(there, base / "arriving")
    assert receiver.complete
    place(receiver.at(0), told, base / "here")
    assert listing(base / "here").items == listing(there).items


def test_a_file_arrives_with_its_permission_to_be_run(tmp_path):
    (tmp_path / "tool").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    told, receiver = send(tmp_path / "tool", tmp_path / "arriving")
    place(receiver.at(0), told, tmp_path / "deep" / "tool")
    assert os.access(tmp_path / "deep" / "tool", os.X_OK)
    assert (tmp_path / "deep" / "tool").read_bytes() == b"#!/bin/sh\n"


def test_what_arrives_takes_the_place_of_what_was_there(tmp_path):
    new, target = tmp_path / "new", tmp_path / "target"
    for folder, name in ((new, "fresh"), (target, "stale")):
        folder.mkdir()
        (folder / name).write_bytes(b"1")
    told, receiver = send(new, tmp_path / "arriving")
    place(receiver.at(0), told, target)
    assert [file.name for file in target.iterdir()] == ["fresh"]
    place(tmp_path / "nothing", Listing("/x", "absent"), target)
    assert not target.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["arriving", "new"]  # no old one is left


def test_a_file_takes_the_place_of_a_folder(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    told, receiver = send(tmp_path / "file", tmp_path / "arriving")
    place(receiver.at(0), told, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda content: b"abcx", "has another sha256"),
        (lambda content: content + b"x", "has another size"),
        (lambda content: b"", "has another size"),
    ],
    ids=["changed", "longer", "empty"],
)
def test_what_was_harmed_on_its_way_is_refused(tmp_path, harm, told):
    (tmp_path / "file").write_bytes(b"abcd")
    receiver = Receiver([listing(tmp_path / "file")], tmp_path / "arriving")
    with pytest.raises(Damaged, match=told):
        receiver.take(harm(b"abcd"))
    assert not receiver.complete


def test_more_than_was_announced_is_refused(tmp_path):
    receiver = Receiver([Listing("/x", "folder")], tmp_path / "arriving")
    assert receiver.complete
    with pytest.raises(Damaged, match="more came than was announced"):
        receiver.take(b"x")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\0b", "/"], ids=repr)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(Damaged, match="is no name below a folder"):
        Item(name, 1, "")


@pytest.mark.parametrize("fields", [{}, {"path": "/x", "kind": "file", "items": [1]}, {"items": [["a"]]}], ids=repr)
def test_a_listing_that_is_none_is_refused(fields):
    with pytest.raises(Damaged, match="a listing is damaged"):
        Listing.from_json(fields)


@pytest.mark.parametrize(
    ("kind", "names"),
    [("link", []), ("file", []), ("file", ["a"]), ("folder", [""]), ("folder", ["a", "a"]), ("absent", ["a"])],
    ids=str,
)
def test_a_listing_whose_files_cannot_be_is_refused(kind, names):
    with pytest.raises(Damaged, match="the listing of /x is damaged"):
        Listing("/x", kind, tuple(Item(name, 1, "") for name in names))


def test_what_is_no_file_is_not_sent(tmp_path):
    with pytest.raises(InputError, match="is no plain file"):
        listing("/dev/null")
    assert listing(tmp_path / "nothing").kind == "absent"


def test_listings_are_json_and_back(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    told = listing(tmp_path)
    assert Listing.from_json(told.to_json()) == told
    assert told.nbytes == 1
