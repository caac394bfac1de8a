"""Completion in the shell: what can follow the words typed so far, and the lines that teach a shell to ask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from bnstudy.errors import UserError

OF_STUDIES = ("status", "report", "publish")
"""Commands whose first word names a study."""
# Each shell asks `bnstudy complete WORDS`, the last of them unfinished, and gets a line for each way to finish it.
SCRIPTS = {
    "bash": """\
_bnstudy() {
    # Readline splits words at "=", which overrides consist of: the line is read anew, and what it keeps is cut off.
    local IFS=$' \\t\\n' line="${COMP_LINE:0:COMP_POINT}" words word found
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word="${words[-1]}"
    mapfile -t COMPREPLY < <(bnstudy complete -- "${words[@]:1}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*=}"}"}")
}
complete -o default -F _bnstudy bnstudy
""",
    "zsh": """\
#compdef bnstudy
_bnstudy() {
    local -a found=("${(@f)$(bnstudy complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    local -a open=(${(M)found:#*=}) whole=(${found:#*=})
    (( $#open )) && compadd -Q -S '' -a open
    (( $#whole )) && compadd -Q -a whole
    (( $#open + $#whole )) || _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _bnstudy bnstudy
""",
    "fish": """\
function __bnstudy
    bnstudy complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null
end
complete -c bnstudy -n '__fish_seen_subcommand_from run plan status report publish; or __fish_use_subcommand' -f
complete -c bnstudy -a '(__bnstudy)'
""",
}


def script(shell: str) -> str:
    """What to add to a shell's configuration.

    Raises:
        UserError: a shell that is not known.
    """
    if shell not in SCRIPTS:
        raise UserError(f"SHELL: {shell!r} is unknown; use {', '.join(SCRIPTS)}")
    return SCRIPTS[shell]


def candidates(app: typer.Typer, words: Sequence[str]) -> list[str]:
    """Every way to finish the last of the words after `bnstudy`; none where a shell should offer files.

    Args:
        app: whose commands and options are offered.
        words: as typed so far; the last is unfinished, and empty where nothing of it is typed.
    """
    root = typer.main.get_command(app)
    *before, word = words or [""]
    commands = {name: command for name, command in getattr(root, "commands", {}).items() if not command.hidden}
    if not before:
        found = [*commands, *_options(root)] if word.startswith("-") else list(commands)
    elif word.startswith("-"):
        found = _options(commands[before[0]]) if before[0] in commands else []
    elif before[0] in ("run", "plan"):
        from bnstudy.sweeps.keys import completions

        found = completions(word)
    elif before[0] in OF_STUDIES and len(before) == 1:
        found = sorted({path.stem for path in Path("outputs/studies").glob("*.json")} | _reported())
    else:
        found = []
    return [text for text in found if text.startswith(word)]


def _options(command: object) -> list[str]:
    parameters = getattr(command, "params", [])
    return [
        name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")
    ]


def _reported() -> set[str]:
    return {path.parent.name for path in Path("results").glob("*/provenance.json")}
