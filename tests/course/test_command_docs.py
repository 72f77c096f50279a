"""The page of commands says what the commands say."""

from course.command_docs import COMMANDS, PAGE, command_docs


def test_page_is_what_the_commands_say() -> None:
    page = command_docs()
    for command in COMMANDS:
        assert f"# `{command}`" in page
    assert PAGE.read_text(encoding="utf-8") == page, "docs/cli.md is stale: run python -m course.command_docs"
