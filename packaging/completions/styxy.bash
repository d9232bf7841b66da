# shellcheck shell=bash
# Completion of styxy in bash. The command itself knows the answers.
_styxy() {
    local i words=()
    COMPREPLY=()
    for ((i = 0; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --) # What follows is a command of its own, which others know how to complete.
            if declare -F _command_offset >/dev/null; then
                _command_offset $((i + 1))
            else
                if ((i + 1 == COMP_CWORD)); then mapfile -t COMPREPLY < <(compgen -c -- "$2"); fi
                compopt -o default
            fi
            return
            ;;
        =) ;; # Bash takes --type=dev for three words, styxy takes it for two.
        *) words+=("${COMP_WORDS[i]}") ;;
        esac
    done
    mapfile -t COMPREPLY < <(STYXY_COMPLETE=1 styxy "${words[@]}" "$2" 2>/dev/null)
    COMPREPLY=("${COMPREPLY[@]%%$'\t'*}")
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
