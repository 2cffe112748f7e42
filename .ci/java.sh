#!/usr/bin/env bash
# Makes sure that Java 17 is there: Spark needs it, and it is a system package. Installs it with apt where that is allowed.
set -euo pipefail

major() { "$1" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1; }

for java in "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java || true)" /usr/lib/jvm/java-17-openjdk-*/bin/java; do
    if [ -n "$java" ] && [ -x "$java" ] && [ "$(major "$java")" = 17 ]; then
        exit 0
    fi
done

as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo -n)
fi
if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
    echo "installing openjdk-17-jre-headless (Spark needs Java 17)"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" apt-get install -y -qq openjdk-17-jre-headless
    exit 0
fi

echo "error: Spark needs Java 17, and no Java 17 was found (JAVA_HOME, PATH, /usr/lib/jvm)." >&2
echo "Install it and try again: Debian/Ubuntu 'apt-get install openjdk-17-jre-headless', macOS 'brew install openjdk@17'" >&2
exit 1
