"""The runner of documents: what it compares, and what it lets pass."""

import pytest

from tests.support.pages import Shell, Step, declared, matches, steps

PAGE = """
```sh
echo one
```
```text
one
```
Words.
```sh
echo two
```
Words between.
```text
no output of it
```
"""


def test_the_output_of_a_block_is_what_follows_it_at_once():
    assert [Step("echo one\n", "one\n"), Step("echo two\n", None)] == steps(PAGE)


@pytest.mark.parametrize(
    ("pattern", "output", "expected"),
    [
        ("serial ...\n", "serial 3f2a\n", True),
        ("serial ...\n", "serial 3f2a\nmore\n", False),
        ("serial ... of 2\n", "serial 3f2a of 3\n", False),
        ("a\n...\nz\n", "a\nb\nc\nz\n", True),
        ("a\n...\nz\n", "a\nz\n", True),
        ("a.b\n", "axb\n", False),
        ("", "", True),
        ("", "a\n", False),
    ],
)
def test_dots_stand_for_the_rest_of_a_line_or_for_lines(pattern, output, expected):
    assert expected == matches(pattern, output)


def test_only_a_variable_that_the_block_declares_can_be_changed():
    assert "CA=b   # the CA\n" == declared("CA=a   # the CA\n", {"CA": "b"})
    with pytest.raises(AssertionError, match="does not declare SDS"):
        declared("CA=a\n", {"SDS": "b"})


@pytest.fixture
def shell(tmp_path):
    directory = tmp_path / "work"
    directory.mkdir()
    shell = Shell(directory)
    yield shell
    shell.end()


def test_a_session_keeps_its_variables_and_shows_both_outputs(shell):
    shell.run("NAME=www\n")

    assert "www\nlost\n" == shell.run("echo $NAME\necho lost >&2\n")


@pytest.mark.parametrize("lines", ["false\ntrue\n", "(exit 3)\n", "nosuchprogram\n"])
def test_a_command_that_fails_ends_the_run_wherever_it_stands(shell, lines):
    with pytest.raises(AssertionError):
        shell.run(lines)


def test_a_failure_that_the_page_expects_is_none(shell):
    assert "exit code 5\n" == shell.run('(exit 5) || echo "exit code $?"\n')


def test_output_that_differs_from_the_page_is_a_failure(shell):
    with pytest.raises(AssertionError, match="the page shows"):
        shell.follow(Step("echo one\n", "two\n"))
