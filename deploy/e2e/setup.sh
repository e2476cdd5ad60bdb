#!/bin/sh
# Installs what the end-to-end tests need and is not there yet: Prosody, ejabberd, HAProxy, nginx, Caddy, Apache, stunnel, Prometheus, Chromium,
# nbxmpp, a JDK, Smack, Node.js, the npm packages.
# For Debian 12. Does nothing, quickly, when all is there.
set -eu
cd "$(dirname "$0")"

node_version=20 npm_version=10 # the least: for the JavaScript clients, and for their lock file

# recent PROGRAM MAJOR
recent() {
	command -v "$1" >/dev/null && [ "$("$1" --version | tr -d v | cut -d. -f1)" -ge "$2" ]
}

PATH=$PATH:/usr/sbin
packages=
command -v prosody >/dev/null || packages="$packages prosody"
[ -d /usr/lib/prosody/modules/mod_sasl2 ] || packages="$packages prosody-modules"
ls -d /usr/lib/*-linux-gnu/ejabberd-* >/dev/null 2>&1 && command -v erl >/dev/null || packages="$packages ejabberd"
command -v haproxy >/dev/null || packages="$packages haproxy"
command -v nginx >/dev/null || packages="$packages nginx-light"
command -v caddy >/dev/null || packages="$packages caddy"
command -v prometheus >/dev/null || packages="$packages prometheus"
command -v apache2 >/dev/null || packages="$packages apache2-bin"
command -v stunnel4 >/dev/null || packages="$packages stunnel4"
[ -x /usr/bin/chromium ] || packages="$packages chromium"
[ -d /usr/lib/python3/dist-packages/nbxmpp ] || packages="$packages python3-nbxmpp"
ls /usr/lib/*-linux-gnu/girepository-1.0/Soup-3.0.typelib >/dev/null 2>&1 || packages="$packages gir1.2-soup-3.0"
dpkg -s libexpat1-dev >/dev/null 2>&1 && command -v cc >/dev/null || packages="$packages gcc libc6-dev libexpat1-dev"
command -v javac >/dev/null || packages="$packages openjdk-17-jdk-headless"
command -v mvn >/dev/null || packages="$packages maven"
command -v node >/dev/null || packages="$packages nodejs"
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

# Debian 12 has Node.js 18 and npm 9. Newer ones come as npm packages, for these tests only.
npm=npm
if ! recent node $node_version || ! recent npm $npm_version; then
	case $(uname -m) in
	x86_64) arch=x64 ;;
	aarch64) arch=arm64 ;;
	*)
		echo "setup.sh: Node.js $node_version and npm $npm_version or newer are needed" >&2
		exit 1
		;;
	esac
	# fetch PACKAGE DIRECTORY
	fetch() {
		tarball=$(npm pack --silent "$1") && mkdir -p "$2" && tar -xzf "$tarball" -C "$2" --strip-components=1 && rm "$tarball"
	}
	[ -x clients/node/bin/node ] || fetch node-linux-$arch@20.20.2 clients/node
	[ -e clients/node/npm/bin/npm-cli.js ] || fetch npm@10.9.4 clients/node/npm
	PATH=$PWD/clients/node/bin:$PATH
	npm="node $PWD/clients/node/npm/bin/npm-cli.js"
fi

# npm leaves a copy of the lock file behind; as long as it is newer, there is nothing to do.
lock=clients/node_modules/.package-lock.json
if [ ! -e "$lock" ] || [ clients/package-lock.json -nt "$lock" ] || [ clients/package.json -nt "$lock" ]; then
	(cd clients && $npm ci)
fi

# The exact files, whatever Maven finds.
(
	cd clients/smack
	check() { (cd lib 2>/dev/null && sha256sum --quiet --strict -c ../SHA256SUMS); }
	if ! check >/dev/null 2>&1; then
		rm -rf lib
		mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib
		check
	fi
)
