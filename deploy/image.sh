#!/bin/sh
# Builds the image: deploy/image.sh [OPTION…], options as those of "docker build".
# VERSION, REVISION and SOURCE default to what the repository says, IMAGE to xmppgate.
set -eu
cd "$(dirname "$0")/.."

# The image has the files of the work tree. If they are those of the commit it has the
# version of the commit, if not that of any program built here.
head=$(git rev-parse HEAD 2>/dev/null) || head=
if [ -z "${VERSION:-}" ]; then
	if [ -n "$head" ] && [ -z "$(git status --porcelain)" ]; then
		VERSION=v$(deploy/version.sh)
	else
		VERSION=v$(cat cmd/xmppgate/VERSION)-devel
	fi
fi
REVISION=${REVISION:-${head:-unknown}}
module=$(sed -n 's/^module //p' go.mod)
case ${module%%/*} in
*.*) SOURCE=${SOURCE:-https://$module} ;;
*) SOURCE=${SOURCE:-pkg:golang/$module} ;; # not published yet
esac

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
echo "$tool, version $VERSION, revision $REVISION"
# shellcheck disable=SC2086 # two or more words
exec $tool --build-arg "VERSION=$VERSION" --build-arg "REVISION=$REVISION" --build-arg "SOURCE=$SOURCE" \
	-t "${IMAGE:-xmppgate}" "$@" .
