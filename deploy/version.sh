#!/bin/sh
# Prints the version of the commit that is checked out: what cmd/xmppgate/VERSION says if
# the commit has that tag, and before the tag one that sorts before it. Packages, the
# image and the programs in them have this version.
set -eu
cd "$(dirname "$0")/.."

next=$(git show HEAD:cmd/xmppgate/VERSION)
if ! echo "$next" | tr '\n' ' ' | grep -Eqx '[0-9]+\.[0-9]+\.[0-9]+ '; then
	echo "cmd/xmppgate/VERSION has \"$next\": write three numbers with points between them" >&2
	exit 1
fi
tags=$(git tag --points-at HEAD --list 'v*' | tr '\n' ' ')
case $tags in
"") echo "$next-pre$(TZ=UTC0 git show -s --format=%cd --date=format-local:%Y%m%d%H%M%S HEAD)" ;;
"v$next ") echo "$next" ;;
*)
	echo "the tag is $tags, but cmd/xmppgate/VERSION has $next: they must agree" >&2
	exit 1
	;;
esac
