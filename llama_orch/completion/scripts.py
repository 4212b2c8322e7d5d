"""The shells' halves of completion, and where each shell looks for them.

Decides the text of the scripts. Each hands over the line as it stands, and shows what comes back; where nothing fits
the shell offers files. Never edits a file of the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath

from contracts.base import Message

MARK = "# Completion of llama-orch; written by: llama-orch completion"


class Shell(StrEnum):
    """Whose completion it is."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


class Place(Message, frozen=True, kw_only=True):
    """Where a script belongs, and what has to be done for the shell to look there."""

    path: PurePosixPath
    remark: str | None = None


_BASH = r"""
_llama_orch() {
    local line=${COMP_LINE:0:COMP_POINT} word value prefix=
    word=${line##*[[:space:]]}
    # Bash takes ":" and "=" for ends of words: what is before the last of them stays as it is.
    [[ $word == *[:=]* ]] && prefix=${word%"${word##*[:=]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r value _; do
        COMPREPLY+=("${value#"$prefix"}")
    done < <(llama-orch __complete --line "$line" 2> /dev/null)
    # Another word follows, unless this one is an option that wants its value.
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -o nosort -F _llama_orch llama-orch
"""

_ZSH = r"""
_llama_orch() {
    local line value
    local -a found
    for line in "${(@f)$(llama-orch __complete -- "${(@Q)words[2,CURRENT]}" 2> /dev/null)}"; do
        value=${line%%$'\t'*}
        [[ -n $value ]] && found+=("${value//:/\\:}:${line#*$'\t'}")
    done
    if (( $#found )); then _describe -V llama-orch found; else _files; fi
}
if [[ ${funcstack[1]-} == _llama_orch ]]; then _llama_orch "$@"; else compdef _llama_orch llama-orch; fi
"""

_FISH = r"""
function __llama_orch_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    llama-orch __complete -- $before[2..-1] "$current" 2>/dev/null
end
complete -c llama-orch -e
complete -c llama-orch -a '(__llama_orch_complete)'
"""


def script(shell: Shell) -> str:
    """What the shell reads."""
    match shell:
        case Shell.BASH:
            return f"{MARK} bash{_BASH}"
        case Shell.ZSH:
            return f"#compdef llama-orch\n{MARK} zsh{_ZSH}"
        case Shell.FISH:
            return f"{MARK} fish{_FISH}"


def place(shell: Shell, home: PurePosixPath, environ: Mapping[str, str]) -> Place:
    """Where this user's shell finds it."""
    data = PurePosixPath(environ.get("XDG_DATA_HOME") or home / ".local/share")
    config = PurePosixPath(environ.get("XDG_CONFIG_HOME") or home / ".config")
    match shell:
        case Shell.BASH:
            path = data / "bash-completion/completions/llama-orch"
            return Place(path=path, remark=f"without the package bash-completion, add to ~/.bashrc: source {path}")
        case Shell.ZSH:
            folder = data / "zsh/site-functions"
            return Place(
                path=folder / "_llama-orch", remark=f"add to ~/.zshrc, before compinit: fpath=({folder} $fpath)"
            )
        case Shell.FISH:
            return Place(path=config / "fish/completions/llama-orch.fish")
