#!/usr/bin/env bash
# Prints the home of a Java 17, which Spark needs and which is a system package; installs it with apt where that is allowed.
set -euo pipefail

home_of_17() {
    local said
    said=$("$1" -XshowSettings:properties -version 2>&1) || return 1
    [ "$(sed -n 's/ *java.specification.version = //p' <<<"$said")" = 17 ] || return 1
    sed -n 's/ *java.home = //p' <<<"$said"
}

find_17() {
    local java
    for java in "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java || true)" /usr/lib/jvm/*17*/bin/java; do
        if [ -n "$java" ] && [ -x "$java" ] && home_of_17 "$java"; then
            return 0
        fi
    done
    return 1
}

find_17 && exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo -n)
fi
if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
    echo "installing openjdk-17-jre-headless (Spark needs Java 17)" >&2
    "${as_root[@]}" apt-get update -qq >&2
    "${as_root[@]}" apt-get install -y -qq openjdk-17-jre-headless >&2
    find_17 && exit 0
fi

echo "error: Spark needs Java 17, and none was found (JAVA_HOME, PATH, /usr/lib/jvm). Install it and try again:" >&2
echo "Debian and Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17 and set JAVA_HOME" >&2
exit 1
