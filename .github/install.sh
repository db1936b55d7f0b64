#!/bin/sh
# Installs go-cache-plugin: fetches a release's archive for this machine, checks its SHA-256, tries the
# binary and renames it into place. Needs no root; whatever goes wrong, what was installed before stays.
#
#   GO_CACHE_PLUGIN_URL      where releases are: a folder with latest/download/ and download/vX.Y.Z/
#   GO_CACHE_PLUGIN_VERSION  which release, X.Y.Z or latest
#   GO_CACHE_PLUGIN_DIR      where the binary goes; $HOME/.local/bin if unset
#   GO_CACHE_PLUGIN_SHA256   what the archive must hash to; if unset, what the release's SHA256SUMS says
#   GO_CACHE_PLUGIN_TARGET   which build, as in x86_64-unknown-linux-musl; this machine's if unset
set -eu

# a release sets both when it publishes this file
releases=${GO_CACHE_PLUGIN_URL:-}
version=${GO_CACHE_PLUGIN_VERSION:-latest}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# fetch URL FILE: what is there, whole, or an error; with curl, https stays https
fetch() {
    if have curl; then
        case $1 in https:*) secure='=https' ;; *) secure='=http,https' ;; esac
        curl --fail --silent --show-error --location --proto "$secure" --retry 3 --connect-timeout 10 \
            --speed-limit 1000 --speed-time 30 --output "$2" "$1" || fail "cannot fetch $1"
    elif have wget; then
        wget -q -T 30 -O "$2" "$1" || fail "cannot fetch $1: wget ended with $?"
    else
        fail "neither curl nor wget is here: install one of them"
    fi
}

sha256() {
    if have sha256sum; then
        set -- sha256sum "$1"
    elif have shasum; then
        set -- shasum -a 256 "$1"
    elif have openssl; then
        set -- openssl dgst -sha256 -r "$1"
    else
        fail "none of sha256sum, shasum and openssl is here to check the download with"
    fi
    "$@" | cut -d ' ' -f 1
}

# the target triple of the build that runs here
target() {
    system=$(uname -s)
    machine=$(uname -m)
    case $machine in
    x86_64 | amd64) machine=x86_64 ;;
    aarch64 | arm64) machine=aarch64 ;;
    *) fail "there is no build for $system on $machine: build it with cargo" ;;
    esac
    case $system in
    Linux) echo "$machine-unknown-linux-musl" ;;
    Darwin)
        # a shell that is translated by Rosetta says x86_64 on an arm64 machine
        [ "$(sysctl -n sysctl.proc_translated 2>/dev/null)" != 1 ] || machine=aarch64
        echo "$machine-apple-darwin"
        ;;
    *) fail "there is no build for $system: build it with cargo" ;;
    esac
}

main() {
    [ -n "$releases" ] || fail "GO_CACHE_PLUGIN_URL is not set: it says where the releases are"
    dir=${GO_CACHE_PLUGIN_DIR:-${HOME:+$HOME/.local/bin}}
    # as a shell would have it, where the variable comes from a file that no shell reads
    case $dir in \~/*) dir=${HOME:+$HOME/${dir#\~/}} ;; esac
    [ -n "$dir" ] || fail "HOME is not set: set GO_CACHE_PLUGIN_DIR to a directory for the binary"
    target=${GO_CACHE_PLUGIN_TARGET:-$(target)}
    case $version in
    latest) from=${releases%/}/latest/download ;;
    *) from=${releases%/}/download/v${version#v} ;;
    esac
    name=go-cache-plugin-$target

    mkdir -p "$dir" 2>/dev/null || fail "cannot make $dir: set GO_CACHE_PLUGIN_DIR to another directory"
    # beside the binary, so that the last step is a rename
    temp=$(mktemp -d "$dir/.go-cache-plugin.XXXXXX" 2>/dev/null) ||
        fail "cannot write in $dir: set GO_CACHE_PLUGIN_DIR to another directory"
    trap 'rm -rf "$temp"' EXIT
    trap 'exit 130' HUP INT TERM

    expected=${GO_CACHE_PLUGIN_SHA256:-}
    if [ -z "$expected" ]; then
        fetch "$from/SHA256SUMS" "$temp/sums"
        expected=$(sed -n "s/^\([0-9a-f]\{64\}\) [ *]$name\.tar\.gz\$/\1/p" "$temp/sums")
        [ -n "$expected" ] || fail "$from/SHA256SUMS has no line for $name.tar.gz: is there a build for this machine?"
    fi
    fetch "$from/$name.tar.gz" "$temp/archive"
    got=$(sha256 "$temp/archive")
    [ "$got" = "$expected" ] ||
        fail "$from/$name.tar.gz is not what it should be: its SHA-256 is $got, not $expected; nothing was installed"
    tar -xzf "$temp/archive" -C "$temp" || fail "$name.tar.gz cannot be unpacked"
    binary=$temp/$name/go-cache-plugin
    said=$("$binary" version) || fail "the binary for $target does not run here, or $dir allows no programs"
    [ ! -d "$dir/go-cache-plugin" ] || fail "$dir/go-cache-plugin is a directory"
    mv -f "$binary" "$dir/go-cache-plugin" || fail "cannot replace $dir/go-cache-plugin"
    echo "$said: $dir/go-cache-plugin"
    case :$PATH: in
    *:"$dir":*) ;;
    *) echo "install.sh: $dir is not in PATH: add it" >&2 ;;
    esac
}

# at the end, so that half of this file does nothing
main
