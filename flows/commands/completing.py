"""`completion`: the word `apexflow` in a shell, with completion of commands, options and names.

An application that runs from its checkout has no program of its own on the path; a shell function
stands for `python -m flows` and works from any folder.
"""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from data.project import ROOT

VARIABLE = "_APEXFLOW_COMPLETE"  # click asks it what to complete
SHELLS = ("bash", "zsh", "fish")
FUNCTION = {
    "bash": 'apexflow() {{ PYTHONPATH={root} {python} -P -m flows "$@"; }}',
    "zsh": 'apexflow() {{ PYTHONPATH={root} {python} -P -m flows "$@"; }}',
    "fish": "function apexflow; PYTHONPATH={root} {python} -P -m flows $argv; end",
}
COMPLETE = {
    "bash": """_apexflow_completion() {{
    local IFS=$'\\n'
    COMPREPLY=( $( COMP_WORDS="${{COMP_WORDS[*]}}" COMP_CWORD=$COMP_CWORD \\
        {variable}=complete_bash apexflow ) )
}}
complete -o default -F _apexflow_completion apexflow""",
    "zsh": """_apexflow_completion() {{
    eval $(env _TYPER_COMPLETE_ARGS="${{words[1,$CURRENT]}}" \\
        PYTHONPATH={root} {variable}=complete_zsh {python} -P -m flows)
}}
compdef _apexflow_completion apexflow""",
    "fish": """complete --command apexflow --no-files --arguments \\
"(env {variable}=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \\
_TYPER_COMPLETE_ARGS=(commandline -cp) PYTHONPATH={root} {python} -P -m flows)" \\
--condition "env {variable}=complete_fish _TYPER_COMPLETE_FISH_ACTION=is-args \\
_TYPER_COMPLETE_ARGS=(commandline -cp) PYTHONPATH={root} {python} -P -m flows\"""",
}


def script(shell: str) -> str:
    """The lines for a shell's start file. Raises ConfigError for a shell unknown here."""
    from data.errors import ConfigError

    if shell not in SHELLS:
        raise ConfigError("SHELL", expected=" or ".join(SHELLS), got=shell[:80])
    facts = {
        "root": shlex.quote(str(ROOT)),
        "python": shlex.quote(sys.executable),
        "variable": VARIABLE,
    }
    return "\n".join(text.format(**facts) for text in (FUNCTION[shell], COMPLETE[shell]))


def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help=" or ".join(SHELLS))] = "bash",
) -> None:
    """Lines that make `apexflow` a word of your shell, from any folder, with Tab completion.

    For this shell: eval "$(python -m flows completion bash)"; to keep it, put that line into
    ~/.bashrc with the full path of the environment's python. Completes commands, options, recipes,
    layouts, stages and runs.
    """
    typer.echo(script(shell))
