# What install and uninstall share: options, words, and the names of what lies where. POSIX sh; not run by itself.
# shellcheck shell=sh

CODE="main.py polarise neurons challenges tlog telemetry ledger config utils deploy
      requirements.lock requirements.txt requirements-validator.txt LICENSE README.md CHANGELOG.md"

say() {
    echo "$*"
}

same() {
    say "= $*"
}

fail() {
    echo "polarise: $1" >&2
    [ -z "${2:-}" ] || echo "  fix: $2" >&2
    exit 2
}

# Says what it does, and does it unless this is a dry run.
act() {
    say "+ $*"
    [ -n "$is_dry" ] || "$@"
}

# put SOURCE TARGET: a file that anybody may read.
put() {
    if cmp -s "$1" "$2"; then
        same "$2"
        return
    fi
    [ -d "$(dirname "$2")" ] || act mkdir -p "$(dirname "$2")"
    # A link is replaced: what it leads to (/dev/null, where a service is masked) is not ours to write or to give a mode.
    act cp --remove-destination "$1" "$2"
    act chmod 0644 "$2"
}

# Whether the folder of the code is missing, empty, or an install's; a checkout, with what its owner keeps there, is none.
is_code_ours() {
    [ -e "$root/opt/polarise/VERSION.sha256" ] || [ -z "$(ls -A "$root/opt/polarise" 2>/dev/null)" ]
}

# An image's own links are good on the image: from here /etc would be this machine's.
check_root_holds_all() {
    for folder in opt/polarise etc/systemd/system etc/sysctl.d etc/sysusers.d etc/tmpfiles.d etc/polarise/secrets var/lib/polarise; do
        case $(readlink -m "$root/$folder") in
            "$root"/*) ;;
            *) fail "$root/$folder leads out of $root, over a link" "make it a folder, or install on the machine itself" ;;
        esac
    done
}

# Run in a folder with the code: one hash over names and contents.
checksum_of_code() {
    find $CODE -name __pycache__ -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
}

parse_options() {
    script=$1
    shift
    role= root= venv= is_dry= is_start= is_purge= is_forced=
    while [ $# -gt 0 ]; do
        case "$script $1" in
            *" --role" | *" --root" | "install --venv")
                [ $# -ge 2 ] || fail "$1 needs a value"
                case $1 in
                    --role) role=$2 ;;
                    --root) root=$2 ;;
                    --venv) venv=$2 ;;
                esac
                shift
                ;;
            *" --dry-run") is_dry=1 ;;
            "install --start") is_start=1 ;;
            "uninstall --purge") is_purge=1 ;;
            "uninstall --force") is_forced=1 ;;
            *" --help" | *" -h")
                usage
                exit 0
                ;;
            *) fail "unknown option $1" "deploy/$script --help lists them" ;;
        esac
        shift
    done
    case $role in
        miner) units="polarise-agent.service polarise-miner.service" ;;
        validator | ledger) units=polarise-$role.service ;;
        *) fail "--role is ${role:-missing}" "one of miner, validator, ledger" ;;
    esac
    [ -z "$root" ] || [ -d "$root" ] || fail "--root $root is no folder" "make it first"
    # From here on an empty root is the machine itself.
    [ -z "$root" ] || root=$(cd "$root" && pwd -P)
    [ "$root" != / ] || root=
    [ -z "$root" ] || check_root_holds_all
    [ -z "$venv" ] || venv=$(cd "$venv" 2>/dev/null && pwd) || fail "--venv leads to no folder"
    [ -n "$root" ] || [ -n "$is_dry" ] || [ "$(id -u)" = 0 ] || fail "this changes the machine" "run it as root, or with --dry-run"
}
