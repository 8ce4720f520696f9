"""Signed notes against the specification's own example (C2SP signed-note at 5ba5ee8), then against everything else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarise.notes import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Ed25519Verifier,
    Note,
    NoteInvalid,
    NoteSignature,
    open_note,
    parse_note,
    parse_vkey,
    sign_note,
    verify_note,
)
from polarise.signing import SigningKey

VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n"
    "\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
KEY = SigningKey(bytes([7]) * 32)
OURS = Ed25519Verifier("ours.example/log", KEY.public_key)


def published() -> Ed25519Verifier:
    name, kind, public_key = parse_vkey(VKEY)
    assert kind == 1
    return Ed25519Verifier(name, public_key.hex())


def test_the_published_note_verifies_under_the_published_key() -> None:
    note = open_note(NOTE, [published()])
    assert note.text == "This is an example message.\n"
    assert note.encode() == NOTE
    assert published().vkey == VKEY


@pytest.mark.parametrize("place", range(0, len(NOTE), 3))
def test_one_changed_byte_of_the_published_note_is_refused(place: int) -> None:
    changed = NOTE[:place] + bytes([NOTE[place] ^ 1]) + NOTE[place + 1 :]
    with pytest.raises(NoteInvalid):
        open_note(changed, [published()])


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]) | st.just("\n"), max_size=200))
def test_what_is_signed_is_read_back(text: str) -> None:
    signed = Note(f"{text}\n", (sign_note(f"{text}\n", OURS.name, KEY),))
    assert open_note(signed.encode(), [OURS]) == signed


def test_unknown_keys_are_ignored_and_alone_are_not_enough() -> None:
    other = SigningKey(bytes([8]) * 32)
    text = "a\n"
    both = Note(text, (sign_note(text, "other.example", other), sign_note(text, OURS.name, KEY)))
    assert len(verify_note(both, [OURS])) == 1
    with pytest.raises(NoteInvalid, match="no trusted key"):
        verify_note(Note(text, both.signatures[:1]), [OURS])


def test_a_known_key_that_does_not_verify_refuses_the_whole_note() -> None:
    other = Ed25519Verifier("other.example", SigningKey(bytes([8]) * 32).public_key)
    forged = NoteSignature(other.name, other.key_id, bytes(64))
    note = Note("a\n", (sign_note("a\n", OURS.name, KEY), forged))
    assert verify_note(note, [OURS])
    with pytest.raises(NoteInvalid, match="does not verify"):
        verify_note(note, [OURS, other])


def test_the_same_key_under_another_name_is_another_key() -> None:
    note = Note("a\n", (sign_note("a\n", OURS.name, KEY),))
    with pytest.raises(NoteInvalid):
        verify_note(note, [Ed25519Verifier("theirs.example/log", KEY.public_key)])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no blank line\n",
        b"text\n\n",
        b"text\n\nno dash c29tZXRoaW5n\n",
        "text\n\n— name\n".encode(),
        "text\n\n— name not-base64!\n".encode(),
        "text\n\n— na+me c29tZXRoaW5n\n".encode(),
        "text\n\n—  c29tZXRoaW5n\n".encode(),
        "text\n\n— name c29t\n".encode(),
        "text\n\n— name c29tZXRoaW5n".encode(),
        "tab\tbed\n\n— name c29tZXRoaW5n\n".encode(),
        "return\red\n\n— name c29tZXRoaW5n\n".encode(),
        "text\n\n— name c29tZXRoaW5nMR==\n".encode(),
        b"text\xff\n\n\xe2\x80\x94 name c29tZXRoaW5n\n",
    ],
)
def test_what_is_no_note_is_refused(raw: bytes) -> None:
    with pytest.raises(NoteInvalid):
        parse_note(raw)


def test_size_and_number_of_signatures_are_bounded() -> None:
    line = sign_note("a\n", OURS.name, KEY)
    assert len(parse_note(Note("a\n", (line,) * MAX_SIGNATURES).encode()).signatures) == MAX_SIGNATURES
    with pytest.raises(NoteInvalid, match=f"{MAX_SIGNATURES} signatures"):
        parse_note(Note("a\n", (line,) * (MAX_SIGNATURES + 1)).encode())
    with pytest.raises(NoteInvalid, match="bytes"):
        parse_note(b"a" * (MAX_NOTE_BYTES + 1))


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "example.com/foo",
        VKEY.replace("530d903a", "530d903b"),
        VKEY.replace("530d903a", "530D903A"),
        VKEY[:-1],
        VKEY.replace("example.com/foo", "exam ple"),
    ],
)
def test_a_broken_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_vkey(vkey)


def test_a_text_that_cannot_stand_in_a_note_is_not_signed() -> None:
    for text in ("no line feed", "tab\t\n"):
        with pytest.raises(ValueError, match="note"):
            sign_note(text, OURS.name, KEY)


def test_a_name_without_bytes_is_refused_like_any_other() -> None:
    """A command line that is no UTF-8 brings halves of surrogate pairs."""
    with pytest.raises(NoteInvalid):
        parse_vkey("\udcff" + VKEY)
    with pytest.raises(ValueError, match="key name"):
        sign_note("text\n", "name\udcff", KEY)
