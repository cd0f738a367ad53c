# The image that `cargo xtask image` makes, for those who have Docker: docker build -t daisy:VERSION .
FROM rust:1-slim-bookworm AS build
WORKDIR /source
COPY . .
# With the target named, build scripts and macros are not made static too.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
 && RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --package daisy --target "$target" \
 && mkdir -p /image/etc && cp "target/$target/release/daisy" /image/daisy \
 && printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' > /image/etc/passwd \
 && printf 'hosts: files dns\n' > /image/etc/nsswitch.conf

FROM scratch
COPY --from=build /image/ /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/daisy"]
