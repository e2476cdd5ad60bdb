#!/bin/sh
# Builds the image: deploy/image.sh [OPTION…], options as those of "docker build".
# VERSION and REVISION default to what git knows, IMAGE to xmppgate.
set -eu
cd "$(dirname "$0")/.."

version=${VERSION:-$(git describe --tags --match 'v*' --dirty 2>/dev/null || echo dev)}
revision=${REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}

# The first tool that answers. A Docker client is often installed without an
# engine, and Debian's podman-docker calls podman "docker".
# podman and buildah write OCI images unless told otherwise, and those have no
# HEALTHCHECK.
if docker info >/dev/null 2>&1 && ! docker --version 2>/dev/null | grep -qi podman; then
	export DOCKER_BUILDKIT=1 # the default since 23.0; the Dockerfile needs it
	tool="docker build"
elif podman info >/dev/null 2>&1; then
	tool="podman build --format docker"
elif buildah info >/dev/null 2>&1; then
	tool="buildah build --format docker"
else
	echo "image: none of docker, podman and buildah answers: start the engine, or install podman" >&2
	exit 1
fi
echo "$tool, version $version, revision $revision"
# shellcheck disable=SC2086 # two or more words
exec $tool --build-arg "VERSION=$version" --build-arg "REVISION=$revision" -t "${IMAGE:-xmppgate}" "$@" .
