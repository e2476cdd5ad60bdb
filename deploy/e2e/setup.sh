#!/bin/sh
# Installs what the end-to-end tests need and is not there yet: Prosody, ejabberd, Chromium, Node.js, the npm packages.
# For Debian 12. Does nothing, quickly, when all is there.
set -eu
cd "$(dirname "$0")"

node_version=20 # the least that the JavaScript clients run on

node_ok() {
	command -v node >/dev/null && node -e "process.exit(parseInt(process.versions.node) >= $node_version ? 0 : 1)"
}

packages=
command -v prosody >/dev/null || packages="$packages prosody"
ls -d /usr/lib/*-linux-gnu/ejabberd-* >/dev/null 2>&1 && command -v erl >/dev/null || packages="$packages ejabberd"
[ -x /usr/bin/chromium ] || packages="$packages chromium"
node_ok || command -v node >/dev/null || packages="$packages nodejs"
command -v npm >/dev/null || packages="$packages npm"

if [ -n "$packages" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "setup.sh: missing:$packages; as root: apt-get install --no-install-recommends$packages" >&2
		exit 1
	fi
	# The tests start servers of their own: keep Debian from starting the packaged ones, on public ports.
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update
	# shellcheck disable=SC2086 # a list
	apt-get install -y --no-install-recommends $packages
fi

# Debian 12 has Node.js 18. A newer one comes as an npm package, for these tests only.
if ! node_ok; then
	if [ ! -x clients/node/bin/node ]; then
		case $(uname -m) in
		x86_64) arch=x64 ;;
		aarch64) arch=arm64 ;;
		*)
			echo "setup.sh: Node.js $node_version or newer is needed, here is $(node --version)" >&2
			exit 1
			;;
		esac
		npm pack --silent --pack-destination clients "node-linux-$arch@$node_version" >/dev/null
		mkdir -p clients/node
		tar -xzf clients/node-linux-"$arch"-*.tgz -C clients/node --strip-components=1
		rm clients/node-linux-"$arch"-*.tgz
	fi
fi

# npm leaves a copy of the lock file behind; as long as it is newer, there is nothing to do.
lock=clients/node_modules/.package-lock.json
if [ ! -e "$lock" ] || [ clients/package-lock.json -nt "$lock" ] || [ clients/package.json -nt "$lock" ]; then
	(cd clients && npm ci)
fi
