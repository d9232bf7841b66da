# Completion of styxy in fish. The command itself knows the answers.

function __styxy_answers
    set -l words (commandline -opc)
    STYXY_COMPLETE=1 styxy $words (commandline -ct) 2>/dev/null
end

# What follows -- is a command of its own, which others know how to complete.
function __styxy_command
    set -l words (commandline -opc)
    set -e words[1..(contains -i -- -- $words)]
    set -l line (commandline -ct)
    if set -q words[1]
        set line (string escape -- $words) $line
    end
    complete -C "$line"
end

complete -c styxy -f
complete -c styxy -k -n 'not contains -- -- (commandline -opc)' -a '(__styxy_answers)'
complete -c styxy -n 'contains -- -- (commandline -opc)' -a '(__styxy_command)'
