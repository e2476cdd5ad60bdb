# Sourced by the scripts beside it.

# need COMMAND:PACKAGE… installs the Debian packages whose command is missing,
# without starting the services that some of them bring.
need() {
	missing=
	for pair; do
		command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
	done
	[ -n "$missing" ] || return 0
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "missing Debian packages:$missing" >&2
		exit 1
	fi
	policy=
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		policy=/usr/sbin/policy-rc.d
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	status=0
	apt-get update -q &&
		DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing || status=$?
	[ -z "$policy" ] || rm -f "$policy"
	return $status
}
