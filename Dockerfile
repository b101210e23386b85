# Build: docker build --build-arg VERSION=$(git describe --tags --always) -t pintle .
# Run:   docker run --network host --cap-drop ALL --cap-add NET_ADMIN --cap-add NET_RAW --cap-add SYS_NICE \
#          -v /etc/pintle:/etc/pintle:ro -v pintle-state:/var/lib/pintle pintle
# `make image` makes the same image, as archives for amd64 and arm64, without docker.
FROM golang:1.26.8-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libcap2-bin
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/pintle ./cmd/pintle
# A user other than root has no capabilities of its own: those on the file (netlink, raw sockets, SCHED_RR) make it so.
# The container must grant all three; one that is missing shows as "operation not permitted" when the container starts.
RUN setcap cap_net_admin,cap_net_raw,cap_sys_nice=ep /out/pintle \
 && mkdir -p /out/etc /out/state /out/run && chown 65532:65532 /out/state /out/run

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="pintle" \
      org.opencontainers.image.source="https://github.com/pintle-lb/pintle" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /out/pintle /pintle
COPY --from=build /out/etc /etc/pintle
COPY --from=build --chown=65532:65532 /out/state /var/lib/pintle
COPY --from=build --chown=65532:65532 /out/run /run/pintle
USER 65532:65532
ENTRYPOINT ["/pintle"]
CMD ["run", "--config", "/etc/pintle/pintle.yaml"]
