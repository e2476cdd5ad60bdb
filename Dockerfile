# The image: one static binary, no shell, not root. Both bases are arguments
# so that they can be pinned by digest or replaced by a mirror.
ARG GO_IMAGE=golang:1.26
ARG RUN_IMAGE=gcr.io/distroless/static-debian12:nonroot

# The compiler runs on the builder's own platform and cross-compiles.
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd ./cmd
COPY framing ./framing
COPY metrics ./metrics
COPY proxy ./proxy
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
ARG REVISION=unknown
# What faces the internet needs no demo; deploy/compose.yaml builds one with it.
ARG TAGS=nodemo
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -pgo=cmd/xmppgate/release.pgo -tags "$TAGS" -ldflags "-s -w -X main.version=$VERSION -X main.revision=$REVISION" -o /out/xmppgate ./cmd/xmppgate

FROM ${RUN_IMAGE}
ARG VERSION=dev
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="xmppgate" \
      org.opencontainers.image.description="XMPP over WebSocket (RFC 7395) in front of any XMPP server" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/xmppgate /xmppgate
WORKDIR /
USER 65532:65532
# 9280 (metrics, health) is left out: it listens on loopback unless told otherwise.
EXPOSE 5290
# For Docker, and for podman when built with --format docker. Kubernetes has
# probes of its own and ignores it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=2s CMD ["/xmppgate", "healthcheck"]
ENTRYPOINT ["/xmppgate"]
