"""The pages of the command line, from the table of commands and the signatures of their functions."""


def command_pages() -> dict[str, str]:
    return {"reference/commands/index.md": "# Command line\n"}
