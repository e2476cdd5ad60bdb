#!/bin/sh
# fuzz.sh [-record] TIME: runs every fuzz target for TIME, one after the other. -record adds
# the executions to the table in docs/reliability.md.
set -eu
cd "$(dirname "$0")/.."
record=
if [ "$1" = -record ]; then
	record=yes
	shift
fi
page=docs/reliability.md
out=$(mktemp)
trap 'rm -f "$out" "$out.page"' EXIT
git ls-files '*_test.go' | xargs grep -H '^func Fuzz' | sed 's|^\(.*\)/[^/]*:func \(Fuzz[A-Za-z0-9]*\).*|\1 \2|' | sort -u >"$out.targets"
while read -r dir target; do
	case $dir in deploy/*) continue ;; esac # modules of their own
	# What an input costs to make smaller is bounded, or a find would take all the time.
	if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 10x "./$dir" >"$out" 2>&1 </dev/null; then
		cat "$out" >&2
		exit 1
	fi
	n=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$out" | tail -n 1)
	echo "$dir $target: ${n:-0} executions"
	if [ -n "$record" ]; then
		# The number is in the fourth cell.
		awk -F ' *[|] *' -v OFS=' | ' -v target="\`$target\`" -v dir="\`$dir\`" -v n="${n:-0}" \
			'$2 == target && $3 == dir { print "| " $2, $3, $4, $5 + n " |"; next } { print }' "$page" >"$out.page"
		cat "$out.page" >"$page"
	fi
done <"$out.targets"
rm -f "$out.targets"
