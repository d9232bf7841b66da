#!/bin/sh
# Installs styxy from the folder in which this file is, or takes away what it has installed.
# shellcheck disable=SC2016 # backticks in messages
set -eu
umask 022

usage() {
    cat <<'END'
usage: install.sh                installs styxy for all users, as root
       install.sh --uninstall    takes away what it has installed
       install.sh --package      for packagers: no check of what is there, no list for --uninstall; PREFIX is /usr

Variables:
  PREFIX    where the program and its files go; /usr/local by default. systemd and D-Bus look only below /usr and /usr/local,
            so their files go to /usr/local if it is neither.
  DESTDIR   a folder in front of all paths, for a package or an image; nothing is said to systemd then
  ZSH_FUNCTIONS    the folder in share/zsh for completions: site-functions by default (Debian has vendor-completions)

For one user, without root: copy bin/styxy to ~/.local/bin, and run `styxy setup`.
END
}

# The copy that is installed has its own prefix here.
prefix=${PREFIX:-/usr/local}
root=${DESTDIR-}
zsh=${ZSH_FUNCTIONS:-site-functions}
verb=install
case ${1-} in
'') ;;
--uninstall) verb=uninstall ;;
--package) verb=package prefix=${PREFIX:-/usr} ;;
-h | --help) usage && exit ;;
*) usage >&2 && exit 2 ;;
esac
[ $# -le 1 ] || { usage >&2 && exit 2; }

# Two names for a folder are one.
root=${root%/}
[ -n "$root" ] || prefix=$(readlink -m "$prefix" 2>/dev/null || printf '%s\n' "$prefix")
prefix=${prefix%/}
from=$(CDPATH='' cd "$(dirname "$0")" && pwd)
own=$prefix/share/styxy                  # has the list, and a copy of this file
list=$root$own/installed
case $prefix in
/usr | /usr/local) shared=$prefix ;;
*) shared=/usr/local ;;
esac

say() { printf 'install.sh: %s\n' "$*" >&2; }
die() { say "$@" && exit 1; }

# Whether this is about the running system.
is_live() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# Keeps a second one from changing anything meanwhile: the lock ends with this process.
lock() {
    command -v flock >/dev/null || return 0
    if [ -n "$root" ]; then
        mkdir -p "$root"
        exec 9<"$root"
    elif [ -d /run ]; then
        umask 077 # no other user can open it, and so none can keep the lock
        exec 9>/run/styxy-install.lock
        umask 022
    else
        return 0
    fi
    flock -n 9 || die "another install.sh is at work in ${root:-/}, and nothing was changed: try again when it has ended"
}

check_prefix() {
    case $prefix in
    /*) ;;
    *) die "PREFIX=$prefix is no absolute path below /" ;;
    esac
    case $prefix in
    *[!A-Za-z0-9/._+-]* | *//* | */./* | */. | */../* | */..)
        die "PREFIX=$prefix has characters that a unit would need quotes for, or dots: choose another folder" ;;
    /home | /home/* | /root | /root/* | /run | /run/* | /tmp | /tmp/* | /var/tmp | /var/tmp/* | /dev | /dev/* | /proc/* | /sys/*)
        die "the service cannot see $prefix, because its sandbox hides homes and temporary files: choose another PREFIX, or use" \
            '`styxy setup`, which writes units for one user' ;;
    esac
    case $zsh in
    '' | .* | *[!A-Za-z0-9._-]*) die "ZSH_FUNCTIONS=$zsh is no name of a folder" ;;
    esac
    [ -n "$root" ] || [ "$(id -u)" -eq 0 ] ||
        die 'only root can do that: try again with sudo; for you alone, copy bin/styxy to ~/.local/bin and run `styxy setup`'
    [ -z "$root" ] || return 0
    [ "$prefix" != /usr ] || die 'PREFIX=/usr is for packages: choose another folder, such as /usr/local'
    # Else somebody could have root write to, or delete, what a link names.
    folder=$prefix
    while [ -n "$folder" ]; do
        case $(stat -c '%u %A' "$folder" 2>/dev/null || echo absent) in
        absent | 0\ d????-??-?) ;;
        # Debian has /usr/local belong to the group of those who administer it.
        0\ d????w??-?) is_of_root_alone "$folder" || die "others than root can write to $folder: choose another PREFIX" ;;
        *) die "others than root can write to $folder: choose another PREFIX" ;;
        esac
        folder=${folder%/*}
    done
}

# Whether nobody is in the group that can write there, or only root.
is_of_root_alone() {
    group=$(stat -c %g "$1")
    [ "$group" = 0 ] || [ -z "$(getent group "$group" | cut -d : -f 4)" ]
}

# ---- where the files go ----------------------------------------------------------------------------------------------

# folder PACKAGE VARIABLE USUAL: what pkg-config says, if that is below our prefix.
folder() {
    asked=$(pkg-config --define-variable=prefix="$shared" --variable="$2" "$1" 2>/dev/null) || asked=
    case $asked in
    "$shared"/*) printf '%s\n' "$asked" ;;
    *) printf '%s\n' "$shared/$3" ;;
    esac
}

find_folders() {
    units=$(folder systemd systemduserunitdir lib/systemd/user)
    generators=$(folder systemd systemdusergeneratordir lib/systemd/user-generators)
    presets=$(folder systemd systemduserpresetdir lib/systemd/user-preset)
    catalog=$(folder systemd catalogdir lib/systemd/catalog)
    services=$(folder dbus-1 session_bus_services_dir share/dbus-1/services)
    interfaces=$(folder dbus-1 interfaces_dir share/dbus-1/interfaces)
}

# Makes in $work/root what is to be below the root, with the paths of this prefix in place of those of a package.
prepare() {
    find_folders
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' HUP INT TERM
    mkdir -p "$work/root$prefix"
    cp -R "$from/bin" "$from/lib" "$from/share" "$work/root$prefix"
    into lib/systemd/catalog "$catalog"
    into lib/systemd/user "$units"
    into lib/systemd/user-generators "$generators"
    into lib/systemd/user-preset "$presets"
    into share/dbus-1/interfaces "$interfaces"
    into share/dbus-1/services "$services"
    into share/zsh/site-functions "$prefix/share/zsh/$zsh"
    case $prefix in
    /usr | /usr/*) executable= ;;
    *) executable=" -$prefix/bin" ;; # the sandbox executes nothing else
    esac
    zsh_in_roff=$(printf '%s\n' "$zsh" | sed 's|-|\\\\-|g')
    find "$work/root" -type f ! -name styxy -exec grep -l /usr/ {} + >"$work/texts"
    while read -r file; do
        sed -e "s|/usr/bin/styxy|$prefix/bin/styxy|g" \
            -e "s|/usr/share/dbus|$shared/share/dbus|g" \
            -e "s|/usr/share/zsh/vendor\\\\-completions|/usr/share/zsh/$zsh_in_roff|g" \
            -e "s|/usr/share/|$prefix/share/|g" \
            -e "s|/usr/lib/systemd/user|$shared/lib/systemd/user|g" \
            -e "s|^ExecPaths=-/usr |ExecPaths=-/usr$executable |" "$file" >"$work/text"
        mv "$work/text" "$file"
    done <"$work/texts"
    find "$work/root" -type f -exec chmod 644 {} +
    chmod 755 "$work/root$prefix/bin/styxy" "$work/root$generators/styxy-generator"
    has "$units/styxy.service" "ExecStart=$prefix/bin/styxy daemon"
    has "$units/styxy.service" "ExecPaths=-/usr$executable -/bin -/lib -/lib64 -/nix/store -/gnu/store"
    has "$services/org.styxy.Styxy1.service" "Exec=$prefix/bin/styxy daemon"
    has "$generators/styxy-generator" "exec $prefix/bin/styxy generator \"\$@\""
}

into() { # moves a folder of ours, if it belongs elsewhere
    [ "$prefix/$1" != "$2" ] || return 0
    mkdir -p "$work/root${2%/*}"
    mv "$work/root$prefix/$1" "$work/root$2"
    rmdir -p "$work/root$prefix/${1%/*}" 2>/dev/null || :
}

has() { # fails unless the file has this line
    grep -qxF -e "$2" "$work/root$1" || die "$1 would not have the line '$2': this archive is damaged, or install.sh is of another one"
}

# ---- installing ------------------------------------------------------------------------------------------------------
#
# The list has a line for each file, as cksum(1) writes it: CHECKSUM SIZE PATH. And for each folder that was made: dir - PATH.

# sums FOLDER: of the files that are named on stdin, as the list has them.
sums() { (cd "$1/" && sed 's|^|.|' | tr '\n' '\0' | xargs -0 cksum) | sed 's| \./| /|'; }

# Without the lines that are in FILE, which may be all.
without() { grep -vxF -f "$1" || [ $? -eq 1 ]; }

# Of the files that are named on stdin, those that are there and not as they were installed.
not_ours() {
    while read -r file; do
        if [ -L "$root$file" ]; then
            printf 'link - %s\n' "$file"
        elif [ -e "$root$file" ]; then
            printf '%s\n' "$file" >&3
        fi
    done 3>"$work/there"
    [ -s "$work/there" ] || return 0
    sums "$root" <"$work/there" >"$work/sums"
    if [ -r "$list" ]; then without "$list" <"$work/sums"; else cat "$work/sums"; fi
}

# What the list has, without folders.
listed() { { grep -v '^dir ' "$1" || [ $? -eq 1 ]; } | cut -d ' ' -f 3-; }

# Removes what one that was killed has left. The list then has all files, the old and the new ones.
clean() {
    rm -f "$list.new"
    [ -e "$list" ] || return 0
    listed "$list" >"$work/clean"
    while read -r file; do rm -f "$root$file.new"; done <"$work/clean"
}

check_others() {
    printf '%s\n' /usr/bin/styxy /etc/systemd/user/styxy.service /usr/lib/systemd/user/styxy.service \
        /usr/local/lib/systemd/user/styxy.service | without "$work/known" >"$work/elsewhere"
    not_ours <"$work/elsewhere" >"$work/others"
    while read -r _ _ file; do
        die "$root$file is there already, and not from here: a styxy is installed by a package, or with another PREFIX; remove" \
            'that one first'
    done <"$work/others"
    not_ours <"$work/names" >"$work/others"
    while read -r _ _ file; do
        die "somebody else has written or changed $root$file: move it away, then try again (settings of a unit belong in a" \
            'drop-in: `systemctl --user edit`)'
    done <"$work/others"
}

copy() { # from $work/root, what is named on stdin
    (cd "$work/root" && find . -type d) | sed 's|^\.||' | while read -r folder; do
        [ -d "$root$folder/" ] || mkdir -p "$root$folder"
    done
    while read -r file; do
        rm -f "$root$file.new"
        cp -p "$work/root$file" "$root$file.new"
        mv -f "$root$file.new" "$root$file" # a program that runs can be replaced, but not written
    done
}

missing_folders() { # of a file, the outermost last
    above=${1%/*}
    while [ -n "$above" ] && [ ! -d "$root$above" ]; do
        printf 'dir - %s\n' "$above"
        above=${above%/*}
    done
}

install() {
    [ -n "$root" ] || "$from/bin/styxy" --version >/dev/null 2>&1 ||
        die "bin/styxy does not run here: take the archive for this kind of machine, or one for musl if the C library is too old"
    prepare
    lock
    mkdir -p "$work/root$own"
    sed "s|^prefix=.*|prefix=\${PREFIX:-$prefix}|" "$from/install.sh" >"$work/root$own/install.sh"
    chmod 755 "$work/root$own/install.sh"
    (cd "$work/root" && find . -type f) | sed 's|^\.||' | sort >"$work/names"
    sums "$work/root" <"$work/names" >"$work/new"
    is_first=yes
    if [ -e "$list" ]; then is_first=no && cp "$list" "$work/old"; else : >"$work/old"; fi
    listed "$work/old" >"$work/known"
    check_others
    clean
    { grep '^dir ' "$work/old" || :; while read -r file; do missing_folders "$file"; done <"$work/names"; } | sort -u >"$work/folders"

    # Until all is done, what was there and what comes both count as ours.
    mkdir -p "$root$own"
    cat "$work/folders" "$work/old" "$work/new" | sort -u >"$list.new"
    mv -f "$list.new" "$list"
    copy <"$work/names"
    without "$work/names" <"$work/known" >"$work/gone"
    while read -r file; do rm -f "$root$file"; done <"$work/gone"
    cat "$work/folders" "$work/new" >"$list.new"
    mv -f "$list.new" "$list"
    [ -n "$root" ] || ! command -v journalctl >/dev/null || journalctl --update-catalog || :
    tell
}

tell() {
    printf 'styxy is installed below %s. To take it away: %s%s --uninstall\n' "$root$prefix" \
        "${root:+DESTDIR=$root }" "$root$own/install.sh"
    [ -z "$root" ] || return 0
    case :$PATH: in
    *:"$prefix/bin":*) ;;
    *) printf '%s is not in PATH: add it there, or run %s\n' "$prefix/bin" "$prefix/bin/styxy" ;;
    esac
    if ! is_live; then
        cat <<'END'
systemd does not run here, and styxy works without it: a command starts the service when it needs one, which ends when it is idle. Try:
    styxy allocate dev
END
        return
    fi
    if [ "$is_first" = no ]; then
        cat <<'END'
Every user who is logged in has the new version after:
    systemctl --user daemon-reload
    systemctl --user try-restart styxy.service
END
        return
    fi
    cat <<'END'
Every user who wants it:
    systemctl --user daemon-reload
    systemctl --user reload dbus.service
    systemctl --user enable --now styxy.socket
Or, as root, for all users from their next login on:
    systemctl --global enable styxy.socket
END
}

package() {
    [ -n "$root" ] || die '--package wants DESTDIR, the folder of the package'
    prepare
    lock
    (cd "$work/root" && find . -type f) | sed 's|^\.||' | copy
}

# ---- taking it away --------------------------------------------------------------------------------------------------

managers() { # asks the systemd of every user who is logged in; nobody keeps the others waiting
    systemctl --plain --no-legend list-units 'user@*.service' | sed -n 's/^user@\([0-9]*\)\.service.*/\1/p' |
        while read -r uid; do
            timeout 20 systemctl --quiet --user --machine="$uid@" "$@" </dev/null >/dev/null 2>&1 || :
        done
}

uninstall() {
    [ -r "$list" ] || die "$list is missing: nothing was installed with PREFIX=$prefix"
    lock
    sockets='styxy.socket styxy-portserver.socket styxy-tcp.socket'
    # A package that came later has the same names.
    is_other=no
    for unit in /etc/systemd/user/styxy.service /usr/lib/systemd/user/styxy.service; do
        [ ! -e "$root$unit" ] || grep -qF " $unit" "$list" || is_other=yes
    done
    if is_live && [ $is_other = no ]; then
        # shellcheck disable=SC2086 # several
        managers disable --now $sockets # and with them the service
        # shellcheck disable=SC2086
        systemctl --quiet --global disable $sockets || :
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    clean
    listed "$list" | sort -u >"$work/names"
    not_ours <"$work/names" >"$work/changed"
    cut -d ' ' -f 3- "$work/changed" >"$work/others"
    # A unit must not start a program that is gone.
    while read -r file; do
        mkdir -p "$root$own/changed${file%/*}"
        mv -f "$root$file" "$root$own/changed$file"
        say "$root$file was changed: it is kept as $root$own/changed$file"
    done <"$work/others"
    (cd "$root/" && sed 's|^|.|' | tr '\n' '\0' | xargs -0 rm -f) <"$work/names"
    folders=$(sed -n 's/^dir - //p' "$list" | sort -r)
    rm -f "$list"
    for folder in $folders; do rmdir "$root$folder" 2>/dev/null || :; done # others may have something in there by now
    if is_live; then
        managers daemon-reload
        managers reload dbus.service
        # shellcheck disable=SC2086
        [ $is_other = no ] || managers try-restart $sockets styxy.service
        journalctl --update-catalog || :
        [ $is_other = yes ] || forget_notes
    fi
    echo "styxy is taken away from $root$prefix; what users have of it in their homes stays"
}

# What the service has noted for sandboxes, and for the next service. As the user, who may have put a link there.
forget_notes() {
    for notes in /run/user/*/styxy; do
        owner=${notes#/run/user/} owner=${owner%/styxy}
        setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups --no-new-privs \
            rm -f "$notes/machine-network" "$notes/tcp-for-pages" 2>/dev/null || :
    done
}

check_prefix
$verb
