#compdef styxy
# Completion of styxy in zsh. The command itself knows the answers.
_styxy() {
    local -i escape=${words[(ie)--]}
    if (( escape < CURRENT )); then
        # What follows is a command of its own, which others know how to complete.
        shift $escape words
        (( CURRENT -= escape ))
        _normal -p styxy
        return
    fi
    local answer value
    local -a beginnings values
    for answer in ${(f)"$(STYXY_COMPLETE=1 styxy "${(@Q)words[1,CURRENT]}" 2>/dev/null)"}; do
        value=${${answer%%$'\t'*}//:/\\:}:${answer#*$'\t'}
        case $answer in
            *[:/]$'\t'*) beginnings+=($value) ;; # something like pid: goes on
            *) values+=($value) ;;
        esac
    done
    _describe -V value beginnings -S '' -- values
}
# The first time that it is wanted, this file is the function.
if [[ ${funcstack[1]-} == _styxy ]]; then
    _styxy "$@"
else
    compdef _styxy styxy
fi
