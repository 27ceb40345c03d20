# A static binary in an otherwise empty image: no shell, no package, no root. It builds for the platform of the build: x86_64 or aarch64.
FROM docker.io/library/rust:1.95-alpine3.22 AS build
RUN apk add --no-cache musl-dev ca-certificates
WORKDIR /src
COPY . .
# BuildKit and buildah set TARGETARCH; other builders build for the machine that they run on.
ARG TARGETARCH
RUN case "${TARGETARCH:-$(uname -m)}" in \
        amd64 | x86_64) target=x86_64-unknown-linux-musl ;; \
        arm64 | aarch64) target=aarch64-unknown-linux-musl ;; \
        *) echo "no build for ${TARGETARCH:-$(uname -m)}: use linux/amd64 or linux/arm64" >&2; exit 1 ;; \
    esac \
    && cargo build --locked --release --package doppler-prefect-operator --target "$target" \
    && cp "target/$target/release/doppler-prefect-operator" /doppler-prefect-operator

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /doppler-prefect-operator /doppler-prefect-operator
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8080 8081 8082
ENTRYPOINT ["/doppler-prefect-operator"]
CMD ["run"]
