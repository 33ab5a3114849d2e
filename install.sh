#!/bin/sh
# Installs tunnel-rs on Linux and macOS. `install.sh --help` and docs/INSTALL.md say how; install.ps1 is for Windows.
#
# All is in functions, and the last line calls the first one: of a copy that was cut off on its way, nothing runs.
set -eu
# The messages of other programs are read here, and show in errors.
LC_ALL=C
export LC_ALL
umask 022

repository=tunnel-rs/tunnel-rs
default_url=https://github.com/$repository/releases
url=${TUNNEL_RS_BASE_URL:-$default_url}
url=${url%/}

usage() {
    cat <<'END_OF_HELP'
Usage: install.sh [FLAGS] [TAG]

Installs the program tunnel-rs, or brings it up to date: the latest stable release, or the release TAG, such as v0.1.0.

  --prerelease     the newest release, pre-releases among them
  --ice            tunnel-rs-ice as well
  --user           into ~/.local/bin (what everybody but root gets)
  --system         into /usr/local/bin (what root gets)
  --prefix DIR     into DIR/bin
  --no-signature   do not check the release's signature, even if gh is there to do it
  --uninstall      remove both programs from there
  -h, --help       this text

TUNNEL_RS_BASE_URL in the environment names another place to download from, which has what is below
https://github.com/tunnel-rs/tunnel-rs/releases, and for --prerelease the list of releases in releases.json.
END_OF_HELP
}

say() {
    printf '%s\n' "$1"
}

warn() {
    printf 'install.sh: %s\n' "$1" >&2
}

# fail MESSAGE [CODE]
fail() {
    warn "$1"
    exit "${2:-1}"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# Of what another program said, `errors`, the line that tells what was wrong, or else the last one.
reason() {
    printf '%s\n' "$errors" | awk '
        !found && (/^curl: / || /^wget: / || /ERROR/ || /failed/ || /Cannot/) { line = $0; found = 1 }
        !found && NF { line = $0 }
        END { print line }'
}

# Whether the errors or the file system of a folder say that there is no space left.
full() {
    case $errors in
    *'o space'* | *'short write'* | *'annot write'*) return 0 ;;
    esac
    # A full one has no place for the errors themselves.
    [ "$(df -P -k "$1" 2>/dev/null | awk 'NR == 2 { print $4 }')" = 0 ]
}

read_arguments() {
    tag=
    prerelease=no
    programs=tunnel-rs
    scope=
    prefix=
    signature=yes
    task=install
    while [ $# -gt 0 ]; do
        case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --prerelease) prerelease=yes ;;
        --ice) programs='tunnel-rs tunnel-rs-ice' ;;
        --user | --system) scope="$scope $1" ;;
        --prefix | --prefix=*)
            case $1 in
            --prefix=*) prefix=${1#*=} ;;
            *)
                [ $# -gt 1 ] || fail '--prefix needs a folder' 2
                shift
                prefix=$1
                ;;
            esac
            [ -n "$prefix" ] || fail '--prefix needs a folder' 2
            scope="$scope --prefix"
            ;;
        --no-signature) signature=no ;;
        --uninstall) task=uninstall ;;
        -*) fail "$1: no such flag; see --help" 2 ;;
        *)
            [ -z "$tag" ] || fail "$1: one tag is enough, and $tag was given before" 2
            tag=$1
            case $tag in
            '' | .* | *[!0-9A-Za-z.+_-]*) fail "'$tag' cannot be the tag of a release; one looks like v0.1.0" 2 ;;
            esac
            ;;
        esac
        shift
    done
    [ -z "$tag" ] || [ $prerelease = no ] || fail "either --prerelease or the tag $tag, not both" 2
    case $scope in
    ' '*' '*) fail "only one of$scope" 2 ;;
    esac
}

# Where the programs go: sets `bin`.
choose_folder() {
    case $scope in
    '')
        if [ "$(id -u)" = 0 ]; then scope=--system; else scope=--user; fi
        ;;
    ' '*) scope=${scope# } ;;
    esac
    case $scope in
    --system) prefix=/usr/local ;;
    --user)
        [ -n "${HOME:-}" ] || fail 'HOME is not set; name a folder with --prefix'
        prefix=$HOME/.local
        ;;
    esac
    case $prefix in
    /*) ;;
    *) prefix=$PWD/$prefix ;;
    esac
    bin=${prefix%/}/bin
}

# What this machine is, in Rust's words: sets `target`.
detect() {
    system=$(uname -s) || fail 'uname does not say which system this is'
    machine=$(uname -m) || fail 'uname does not say which processor this is'
    # A shell that macOS translates for Apple silicon calls the processor an Intel one.
    if [ "$system $machine" = 'Darwin x86_64' ] && [ "$(sysctl -n sysctl.proc_translated 2>/dev/null)" = 1 ]; then
        machine=arm64
    fi
    case $system in
    Linux) system=unknown-linux-musl ;;
    Darwin) system=apple-darwin ;;
    MINGW* | MSYS* | CYGWIN* | Windows*) fail 'this is Windows: use install.ps1, in PowerShell' ;;
    *) unknown "$system" ;;
    esac
    case $machine in
    x86_64 | amd64) machine=x86_64 ;;
    aarch64 | arm64) machine=aarch64 ;;
    *) unknown "$(uname -s) on $machine" ;;
    esac
    target=$machine-$system
}

unknown() {
    fail "there are no archives for $1, only for Linux and macOS on x86-64 and arm64; with Rust it can be built from
source: cargo install --locked --git https://github.com/$repository tunnel-rs"
}

find_tools() {
    downloader=
    for tool in curl wget; do
        if [ -z "$downloader" ] && have $tool; then downloader=$tool; fi
    done
    # That of busybox in Debian 12 crashes when it is told how long to wait.
    if [ "$downloader" = wget ] && wget --version 2>/dev/null </dev/null | grep -q GNU; then
        downloader=gnu-wget
    fi
    [ -n "$downloader" ] || fail 'neither curl nor wget is here; install one of them'
    hasher=
    for tool in sha256sum shasum openssl; do
        if [ -z "$hasher" ] && have $tool; then hasher=$tool; fi
    done
    [ -n "$hasher" ] || fail 'none of sha256sum, shasum and openssl is here to check the sums; install one of them'
    for tool in awk df gzip tar; do
        have $tool || fail "$tool is not here; install it"
    done
}

sha256() {
    case $hasher in
    sha256sum) sha256sum <"$1" ;;
    shasum) shasum -a 256 <"$1" ;;
    openssl) openssl dgst -sha256 -r <"$1" ;;
    esac | cut -c 1-64
}

# fetch URL FILE; returns 4 if there is no such file, and fails for every other reason.
fetch() {
    # In the background, because a shell acts on a signal only when what it waits for by name has ended.
    status=0
    if [ $downloader = curl ]; then
        # An address that begins with https is not to be left for one that does not.
        case $1 in
        https:*) protocols='=https' ;;
        *) protocols='=http,https' ;;
        esac
        curl --fail --silent --show-error --location --proto "$protocols" --retry 2 --connect-timeout 20 \
            --speed-limit 1 --speed-time 60 --output "$2" "$1" 2>"$work/errors" &
    elif [ $downloader = gnu-wget ]; then
        wget -nv -t 3 -T 60 -O "$2" "$1" 2>"$work/errors" &
    else
        wget -nv -O "$2" "$1" 2>"$work/errors" &
    fi
    child=$!
    wait "$child" || status=$?
    child=
    errors=$(cat "$work/errors")
    case $errors in
    *'certificate validation not implemented'*)
        fail "this wget does not check certificates, so it cannot be trusted with $1; install curl or GNU wget"
        ;;
    esac
    [ $status -ne 0 ] || return 0
    case $errors in
    *'error: 404'* | *'ERROR 404'* | *HTTP/1.[01]' 404'*) return 4 ;;
    esac
    ! full "$work" || no_space
    fail "cannot download $1: $(reason)
Is there a network? Behind a proxy, set https_proxy."
}

no_space() {
    fail "cannot write to ${TMPDIR:-/tmp}: no space left. TMPDIR names another folder for what is downloaded."
}

# The greatest of the tags on standard input, by the order of Semantic Versioning 2.0.0, section 11.
greatest() {
    awk '
        function numeric(x) { return x ~ /^[0-9]+$/ }
        # Whether a, identifiers of a pre-release, come before b. None at all comes after every one.
        function before(a, b,   x, y, n, m, i) {
            if (a == "" || b == "") return b == "" && a != ""
            n = split(a, x, "."); m = split(b, y, ".")
            for (i = 1; i <= n && i <= m; i++) {
                if (x[i] == y[i]) continue
                if (numeric(x[i]) && numeric(y[i])) return x[i] + 0 < y[i] + 0
                if (numeric(x[i]) != numeric(y[i])) return numeric(x[i])
                return (x[i] "") < (y[i] "")
            }
            return n < m
        }
        function less(a, b,   x, y, i) {
            for (i = 1; i <= 3; i++) {
                split(core[a], x, "."); split(core[b], y, ".")
                if (x[i] + 0 != y[i] + 0) return x[i] + 0 < y[i] + 0
            }
            return before(pre[a], pre[b])
        }
        /^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$/ {
            version = substr($0, 2); sub(/\+.*/, "", version)
            core[$0] = version; sub(/-.*/, "", core[$0])
            pre[$0] = substr(version, length(core[$0]) + 2)
            if (best == "" || less(best, $0)) best = $0
        }
        END { print best }'
}

# Which release: leaves its sums in `work`, sets `tag`.
choose_release() {
    if [ $prerelease = yes ]; then
        list=$url/releases.json
        [ "$url" != "$default_url" ] || list="https://api.github.com/repos/$repository/releases?per_page=100"
        fetch "$list" "$work/releases" || fail "there is no list of releases at $list"
        # A quotation mark inside a string of JSON has a backslash before it, so this finds keys only.
        tag=$(tr '{' ',' <"$work/releases" | tr ',' '\n' |
            sed -n 's/^[[:space:]]*"tag_name":[[:space:]]*"\([^"]*\)".*/\1/p' | greatest)
        [ -n "$tag" ] || fail "$list names no release"
    fi
    if [ -n "$tag" ]; then
        fetch "$url/download/$tag/SHA256SUMS" "$work/SHA256SUMS" ||
            fail "there is no release $tag at $url, or it has no sums (SHA256SUMS)"
        return
    fi
    fetch "$url/latest/download/SHA256SUMS" "$work/SHA256SUMS" ||
        fail "there is no stable release at $url, or it has no sums (SHA256SUMS); --prerelease takes pre-releases"
    # The archives' names have the tag. All that follows is taken from that release, whichever is then the latest.
    tag=$(awk -v start=tunnel-rs-v -v end="-$target.tar.gz" '
        { sub(/^\*/, "", $2); middle = length($2) - length(end) }
        index($2, start) == 1 && middle > 0 && substr($2, middle + 1) == end { print substr($2, 11, middle - 10) }
    ' "$work/SHA256SUMS")
    case $tag in
    '') fail "the latest release at $url has no archive for $target" ;;
    *[!0-9A-Za-z.+_-]*) fail "the sums of the latest release at $url make no sense" ;;
    esac
}

# Downloads, checks and unpacks one program.
get() {
    archive=$1-$tag-$target
    sum=$(awk -v name="$archive.tar.gz" '$2 == name || $2 == "*" name { print $1 }' "$work/SHA256SUMS")
    [ -n "$sum" ] || fail "release $tag has no archive $archive.tar.gz among its sums"
    say "Downloading $archive.tar.gz"
    fetch "$url/download/$tag/$archive.tar.gz" "$work/$archive.tar.gz" ||
        fail "release $tag at $url has no archive $archive.tar.gz"
    actual=$(sha256 "$work/$archive.tar.gz")
    [ "$actual" = "$sum" ] || fail "$archive.tar.gz is damaged or has been altered, and is not installed:
its SHA-256 is    $actual
and should be     $sum"
    check_signature
    if ! errors=$(tar -xzf "$work/$archive.tar.gz" -C "$work" "$archive/$1" 2>&1); then
        ! full "$work" || no_space
        fail "cannot unpack $archive.tar.gz: $(reason)"
    fi
}

# A release is signed by the workflow that makes it. Who has GitHub's own program can tell.
check_signature() {
    [ $signature = yes ] || return 0
    if ! have gh || ! gh attestation verify --help 2>/dev/null </dev/null | grep -q -e --signer-workflow; then
        signature=no
        say 'The SHA-256 is right. The signature has not been checked: that takes gh (https://cli.github.com).'
        return 0
    fi
    bundle=$work/attestation.json
    [ -e "$bundle" ] || fetch "$url/download/$tag/attestation.json" "$bundle" ||
        fail "release $tag at $url has no signature (attestation.json); --no-signature installs it all the same"
    errors=$(gh attestation verify "$work/$archive.tar.gz" --bundle "$bundle" --repo $repository \
        --signer-workflow $repository/.github/workflows/release.yml 2>&1 </dev/null) ||
        fail "the signature of $archive.tar.gz could not be verified: $(reason)
It is not installed. --no-signature leaves this check out."
    say 'The SHA-256 and the signature are right.'
}

# Puts the programs beside their places, tries them there, and only then renames them: one that runs goes on running,
# and whatever happens before leaves all as it was.
place() {
    if [ ! -d "$bin" ]; then
        errors=$(mkdir -p "$bin" 2>&1) || no_permission
    fi
    if ! stage=$(mktemp -d "$bin/.tunnel-rs.XXXXXX" 2>&1); then
        errors=$stage
        stage=
        no_permission
    fi
    before=
    for program in $programs; do
        [ ! -d "$bin/$program" ] || fail "$bin/$program is a folder; move it away"
        errors=$(cp "$work/$program-$tag-$target/$program" "$stage/$program" 2>&1) ||
            fail "cannot write to $bin: $(reason)
Nothing has been changed there."
        chmod 755 "$stage/$program"
        errors=$("$stage/$program" --version 2>&1 </dev/null) ||
            fail "the downloaded $program does not run here: $(reason)
Nothing has been changed in $bin."
        [ ! -x "$bin/$program" ] || before="${before:+$before and }$("$bin/$program" --version 2>/dev/null </dev/null ||
            printf 'an older %s' "$program")"
    done
    # From here to the end is one moment, in which a signal would leave one program new and the other one old.
    trap '' HUP INT TERM
    for program in $programs; do
        errors=$(mv -f "$stage/$program" "$bin/$program" 2>&1) || fail "cannot replace $bin/$program: $(reason)"
    done
}

no_permission() {
    hint='name another folder with --prefix'
    [ "$scope" != --system ] || hint='run this as root (sudo), or with --user for yourself alone'
    fail "cannot write to $bin: $(reason)
To install there, have permission and space; or $hint."
}

report() {
    for program in $programs; do
        say "Installed $program $tag: $bin/$program"
    done
    [ -z "$before" ] || say "It took the place of $before. What runs goes on as it was until it is started again."
    case ":${PATH:-}:" in
    *":$bin:"*)
        found=$(command -v tunnel-rs || :)
        [ "$found" = "$bin/tunnel-rs" ] || warn "$found comes first in PATH; remove it, or change the order"
        ;;
    *) say "$bin is not in PATH. Add this to ~/.profile:  export PATH=\"$bin:\$PATH\"" ;;
    esac
    undo=
    for program in $programs; do
        undo="$undo '$bin/$program'"
    done
    say "To undo it:  rm$undo"
}

uninstall() {
    removed=no
    for program in tunnel-rs tunnel-rs-ice; do
        if [ -f "$bin/$program" ] || [ -h "$bin/$program" ]; then
            errors=$(rm -f "$bin/$program" 2>&1) || fail "cannot remove $bin/$program: $(reason)"
            say "Removed $bin/$program"
            removed=yes
        fi
    done
    if [ $removed = no ]; then
        say "Nothing to remove in $bin. Was it installed with --user, --system or --prefix?"
    else
        say 'Configuration and keys, usually in ~/.config/tunnel-rs, are still there.'
    fi
}

cleanup() {
    trap '' HUP INT TERM
    [ -z "$child" ] || kill "$child" 2>/dev/null || :
    [ -z "$stage" ] || rm -rf "$stage"
    [ -z "$work" ] || rm -rf "$work"
}

main() {
    errors=
    child=
    stage=
    work=
    read_arguments "$@"
    choose_folder
    trap cleanup EXIT
    # 128 and the number of the signal, as shells have it.
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    work=$(mktemp -d "${TMPDIR:-/tmp}/tunnel-rs.XXXXXX") ||
        fail "cannot make a folder in ${TMPDIR:-/tmp}; TMPDIR names another one"
    if [ $task = uninstall ]; then
        uninstall
        return
    fi
    detect
    find_tools
    choose_release
    for program in $programs; do
        get "$program"
    done
    place
    report
}

main "$@"
