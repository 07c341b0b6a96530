import json

import pytest

from interp.core.errors import BadInput
from interp.data.reading import find_file, json_records, read_text


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_text_is_read_with_and_without_a_byte_order_mark(tmp_path):
    assert read_text(write(tmp_path / "a", "naïve\n")) == "naïve\n"
    assert read_text(write(tmp_path / "b", b"\xef\xbb\xbfna")) == "na"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"abc\0def", "NUL byte at byte 3"),
        ("hi".encode("utf-16"), "UTF-16"),
        (b"caf\xe9 au lait", "byte 3 is 0xe9"),
        (b"\xef\xbb\xbfcaf\xe9 au", "byte 6 is 0xe9"),
    ],
)
def test_empty_and_binary_files_are_refused_with_the_byte(tmp_path, data, message):
    with pytest.raises(BadInput, match=message):
        read_text(write(tmp_path / "x.txt", data))


def test_a_missing_file_lists_what_is_there(tmp_path):
    write(tmp_path / "facts.json", "[]")
    with pytest.raises(BadInput, match=r"holds 'facts.json'"):
        find_file(tmp_path / "fact.json")
    with pytest.raises(BadInput, match="no folder"):
        find_file(tmp_path / "no" / "fact.json")


def test_records_carry_their_lines_in_both_layouts(tmp_path):
    rows = [{"a": 1}, {"a": "x\ny"}, [3], "text"]
    lines = write(tmp_path / "a.jsonl", "\n\n".join(map(json.dumps, rows)))
    assert list(json_records(lines)) == [(1, rows[0]), (3, rows[1]), (5, rows[2]), (7, rows[3])]
    pretty = write(tmp_path / "a.json", json.dumps(rows, indent=1))
    found = list(json_records(pretty))
    text = pretty.read_text().splitlines()
    assert [row for _, row in found] == rows and [line for line, _ in found] == [2, 5, 8, 11]
    assert all(text[line - 1].strip()[0] in '{["' for line, _ in found)
    assert list(json_records(write(tmp_path / "empty.json", " [ ] "))) == []


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a.jsonl, line 2: not JSON"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", b'{"a": 1}\n\0\n', "NUL byte at byte 9"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', r"a.json, line 2: not JSON"),
        ("a.json", '[{"a": 1},\n {"a": 2}', r"line 2: the list is cut short"),
        ("a.json", '[{"a": 1}\n {"a": 2}]', r"line 2: the list is cut short or lacks a comma"),
        ("a.json", '{\n "a": 1\n}', r"line 1: not JSON .* one list"),
    ],
)
def test_damage_names_file_and_line(tmp_path, name, data, message):
    with pytest.raises(BadInput, match=message):
        list(json_records(write(tmp_path / name, data)))
