# Sourced by run.sh: makes the images, as archives in $cache/images and $work/images,
# without an engine or a registry.

store="--root $work/store --runroot $work/runroot --storage-driver overlay"
buildah $store from scratch >"$work/log" 2>&1 || store="--root $work/store --runroot $work/runroot --storage-driver vfs"
mkdir "$work/images"

# archive NAME FILE puts an image into an archive.
archive() {
	rm -f "$2.new"
	buildah $store push -q "$1" "docker-archive:$2.new:docker.io/library/$1"
	mv "$2.new" "$2"
}

if [ ! -e "$cache/images/prosody.tar" ] || [ ! -e "$cache/images/ejabberd.tar" ]; then
	step "images of Prosody and ejabberd"
	debootstrap --variant=minbase bookworm "$work/debian" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
	# As in Debian's own images: a package that is installed starts no service.
	printf '#!/bin/sh\nexit 101\n' >"$work/debian/usr/sbin/policy-rc.d"
	chmod 755 "$work/debian/usr/sbin/policy-rc.d"
	image=$(buildah $store from scratch)
	buildah $store add -q "$image" "$work/debian" / >/dev/null
	buildah $store commit -q "$image" localhost/debian:bookworm-slim >/dev/null
	rm -rf "$work/debian"
	for directory in ../../prosody ejabberd; do
		server=${directory##*/}
		buildah $store bud -q --isolation chroot --pull-never --layers=false \
			--build-arg BASE_IMAGE=localhost/debian:bookworm-slim -t $server:latest "$directory" >"$work/log" 2>&1 ||
			{ cat "$work/log" >&2; exit 1; }
		archive $server:latest "$cache/images/$server.tar"
	done
fi

step "image of the gateway"
version_of() { git -C ../../.. describe --always --dirty 2>/dev/null || echo dev; }
(cd ../../.. && go build -trimpath -tags nodemo -ldflags "-s -w -X main.version=$(version_of)" -o "$work/xmppgate" ./cmd/xmppgate)
# scratch NAME PROGRAM USER makes an image of one static program.
scratch() {
	image=$(buildah $store from scratch)
	buildah $store copy -q --chmod 0755 "$image" "$2" "/${2##*/}" >/dev/null
	buildah $store config --user "$3" --entrypoint "[\"/${2##*/}\"]" "$image"
	buildah $store commit -q "$image" "$1" >/dev/null
	buildah $store rm "$image" >/dev/null
	archive "$1" "$work/images/${1%%:*}.tar"
}
scratch xmppgate:latest "$work/xmppgate" 65532:65532
# The same program by another name, for a rolling update.
buildah $store tag xmppgate:latest xmppgate:next
archive xmppgate:next "$work/images/next.tar"
# What holds the namespaces of a pod.
(cd pause && go build -trimpath -ldflags '-s -w' -o "$work/pause" .)
scratch pause:1 "$work/pause" 65535:65535
