"""The literal grammar of environment files, and where they may lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.resources import s3
from services.engine.resources.environment_files import LINE_BYTES, LineTooLong, parse, place_of
from services.engine.resources.kind import ResourceFailed

names = st.text(st.characters(exclude_characters="=\n\r", exclude_categories=("Cs",)), min_size=1).filter(
    lambda name: not name.startswith("#")
)
values = st.text(st.characters(exclude_characters="\n\r", exclude_categories=("Cs",)))


def test_nothing_is_trimmed_unquoted_or_expanded() -> None:
    """Conformance cases R11 and R12, and the rules of spec 05 §8.3 line by line."""
    content = b'# c\n # d\nA=1=2\n=x\nB=\nNOEQ\nC= "q" \nD=x\r\nexport E=$A\n EQ=a=b\nA=last\n#F=1\n #G=1'
    assert dict(parse(content)) == {
        "A": "last", "B": "", "C": ' "q" ', "D": "x", "export E": "$A", " EQ": "a=b", " #G": "1",
    }  # fmt: skip


@given(st.lists(st.tuples(names, values)), st.booleans())
def test_whatever_is_written_as_name_and_value_is_read_so(pairs: list[tuple[str, str]], crlf: bool) -> None:
    """Only line feeds end lines, and only one carriage return before them is dropped (trap 8)."""
    end = "\r\n" if crlf else "\n"
    content = "".join(f"{name}={value}{end}" for name, value in pairs).encode()
    assert list(parse(content)) == pairs


@given(st.binary())
def test_no_content_is_an_error_but_for_long_lines(content: bytes) -> None:
    """Every name is there, none has an equals sign, and what comes out can be sent as JSON."""
    for name, value in parse(content):
        assert name and "=" not in name
        assert (name + value).encode("utf-8") is not None


@pytest.mark.parametrize("line", [b"A=" + b"x" * (LINE_BYTES - 2), b"A=" + b"x" * (LINE_BYTES - 3) + b"\r"])
def test_the_longest_line_counts_its_carriage_return(line: bytes) -> None:
    """65535 bytes are fine, one more is not; comments count too (conformance case R54)."""
    assert len(list(parse(line + b"\nB=1\n"))) == 2
    for long in (line + b"x\n", b"#" + line):
        with pytest.raises(LineTooLong, match=r"bufio\.Scanner: token too long"):
            list(parse(long))


def test_an_arn_names_bucket_and_key() -> None:
    """The pattern is not anchored, and the partition does not matter."""
    assert s3.parse_arn("arn:aws-cn:s3:::b/dir/a.env") == s3.Object("b", "dir/a.env")
    with pytest.raises(ValueError, match="invalid s3 arn: arn:aws:s3:::bucket-only"):
        s3.parse_arn("arn:aws:s3:::bucket-only")


@pytest.mark.parametrize("key", ["../../etc/x", "..", "../..", "a/../../.."])
def test_a_key_must_not_lead_out_of_the_directory(key: str) -> None:
    """Conformance case R13."""
    with pytest.raises(ResourceFailed) as caught:
        place_of(s3.Object("b", key))
    assert str(caught.value) == (
        f'unable to initialize envfile resource directory, error: invalid path: bucket "b" key "{key}" escapes envfile '
        "resource directory"
    )


def test_a_key_is_cleaned() -> None:
    """Dots inside are no harm."""
    assert place_of(s3.Object("b", "x/./../y.env")) == "b/y.env"
