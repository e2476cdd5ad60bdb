#!/bin/sh
# Unpacks Prosody and ejabberd of bookworm-backports, with the libraries that are newer
# there, into the directory backports, beside those of Debian 12 that setup.sh installs. It
# installs nothing. make backports-test runs tests with them.
set -eu
cd "$(dirname "$0")"
rm -rf backports
mkdir -p backports/apt/state/lists/partial backports/apt/cache/archives/partial backports/debs backports/bin
cd backports
echo 'deb http://deb.debian.org/debian bookworm-backports main' >apt/sources.list
dir=$PWD
# with PROGRAM ARGS: apt-get or apt-cache, with lists of its own, for backports only
with() {
	program=$1
	shift
	"$program" -q -o Dir::State="$dir/apt/state" -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache="$dir/apt/cache" \
		-o Dir::Etc::sourcelist="$dir/apt/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root "$@"
}
with apt-get update
cd debs
for p in prosody prosody-modules ejabberd erlang-jose erlang-p1-acme erlang-p1-cache-tab erlang-p1-eimp erlang-p1-mqtree erlang-p1-pkix \
	erlang-p1-stringprep erlang-p1-stun erlang-p1-tls erlang-p1-utils erlang-p1-xml erlang-p1-xmpp erlang-p1-yaml erlang-p1-yconf erlang-p1-zlib; do
	with apt-get download "$p/bookworm-backports"
done
cd ..
for d in debs/*.deb; do
	dpkg -x "$d" root
done
sed "s#='/usr/lib/prosody#='$PWD/root/usr/lib/prosody#" root/usr/bin/prosody >bin/prosody
chmod +x bin/prosody
