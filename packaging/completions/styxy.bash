# shellcheck shell=bash
# Completion of styxy in bash. The command itself knows the answers.
_styxy() {
    local i gap line=${COMP_LINE:0:COMP_POINT} words=()
    COMPREPLY=()
    for ((i = 0; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} == -- ]]; then # What follows is a command of its own, which others know how to complete.
            if declare -F _command_offset >/dev/null; then
                _command_offset $((i + 1))
            else
                if ((i + 1 == COMP_CWORD)); then mapfile -t COMPREPLY < <(compgen -c -- "$2"); fi
                compopt -o default
            fi
            return
        fi
        # Bash takes --type=dev for three words, and pid:7: those between which there is nothing are one.
        gap=${line%%"${COMP_WORDS[i]}"*}
        line=${line:${#gap}+${#COMP_WORDS[i]}}
        if [[ $i -eq 0 || $gap ]]; then words+=(""); fi
        words[-1]+=${COMP_WORDS[i]}
    done
    gap=${line%%[![:space:]]*}
    if [[ $gap ]]; then words+=(""); fi
    # An open quote is not part of the word.
    gap=${line:${#gap}} gap=${gap%"$2"}
    words[-1]+=${gap%[\'\"]}$2
    mapfile -t COMPREPLY < <(STYXY_COMPLETE=1 styxy "${words[@]}" 2>/dev/null)
    COMPREPLY=("${COMPREPLY[@]%%$'\t'*}")
    # Only the last of bash's words is replaced.
    COMPREPLY=("${COMPREPLY[@]#"${words[-1]%"$2"}"}")
    # Something like pid: is only a beginning.
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[:/] ]]; then compopt -o nospace; fi
    # Nothing in a path may mean something to the shell.
    if [[ $2 == [\'\"]* ]]; then return; fi
    for i in "${!COMPREPLY[@]}"; do
        if [[ ${COMPREPLY[i]} == *[!A-Za-z0-9,._/:@%+=-]* ]]; then
            printf -v "COMPREPLY[i]" %q "${COMPREPLY[i]}"
        fi
    done
}
complete -o nosort -F _styxy styxy
