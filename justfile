# The few daily commands; `just` lists them. Everything here can be typed without just, too.

_default:
    @just --list

# Format, lints and the quick tests
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo clippy --test container --test simulation --test bench --test desks -- -D warnings
    cargo test --lib

# Every test of the repository; as root also those in booted machines
test:
    tests/run

# The proofs that take up to 90 minutes
long:
    tests/long

# The Debian package, in target/debian/
package:
    packaging/build-deb

# The archive with install.sh, in target/dist-archives/
archive:
    packaging/dist

# The tests in booted machines whose names contain NAME (needs root and the package)
container NAME:
    STYXY_DEB="$(ls "$PWD"/target/debian/styxy_*.deb)" STYXY_ARCHIVE="$(ls "$PWD"/target/dist-archives/styxy-*-"$(uname -m)"-*-gnu.tar.gz)" \
        STYXY_MACHINE="$PWD/tests/machine/machine" \
        cargo test --test container -- {{ NAME }}

# A machine to look around in, as an ordinary user: just desk trixie
desk SUITE:
    tests/machine/machine boot {{ SUITE }} desk --deb target/debian/styxy_*.deb
    -tests/machine/machine as desk dev -- bash
    tests/machine/machine stop desk

# Figures of speed and memory, beside a floor of the same run
bench *TOPICS:
    tests/bench/run {{ TOPICS }}

# The documentation of the code
doc:
    cargo doc --no-deps --document-private-items --open
