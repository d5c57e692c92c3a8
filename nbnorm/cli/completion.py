"""``nbnorm completion``: what makes a shell complete commands and options."""

from __future__ import annotations

import argparse

from nbnorm.cli.common import (
    Commands,
    add_command,
    output,
)

# Commands and options come from the parser; everything else is completed as a file.
_BASH = """\
_nbnorm() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} words
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -o bashdefault -F _nbnorm nbnorm
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    commands: dict[str, argparse.ArgumentParser] = args.commands
    options = {
        name: sorted(option for option in parser._option_string_actions if option.startswith("--"))
        for name, parser in commands.items()
    }
    if args.shell == "fish":
        text = "".join(
            f"complete -c nbnorm -n __fish_use_subcommand -a {name}\n"
            + "".join(
                f"complete -c nbnorm -n '__fish_seen_subcommand_from {name}' -l {option[2:]}\n"
                for option in listed
            )
            for name, listed in options.items()
        )
    else:
        cases = "\n".join(
            f'            {name}) words="{" ".join(listed)}" ;;' for name, listed in options.items()
        )
        text = (_ZSH if args.shell == "zsh" else "") + _BASH.format(commands=" ".join(commands), cases=cases)
    if args.json:
        args.result.update(shell=args.shell, script=text)
        return 0
    with output() as out:
        out.write(text)
    return 0


_MORE = """\
Commands and options are completed, and names of files. To switch it on:

  bash   eval "$(nbnorm completion bash)"           in ~/.bashrc
  zsh    eval "$(nbnorm completion zsh)"            in ~/.zshrc, after compinit
  fish   nbnorm completion fish | source      in ~/.config/fish/config.fish
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "completion", run, "Print the completion script of a shell", _MORE)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    parser.set_defaults(threads=None, commands=commands.choices)
