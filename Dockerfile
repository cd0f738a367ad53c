# The image that `cargo xtask image` makes, for those who have Docker: docker build -t daisy:VERSION .
FROM rust:1-slim-bookworm AS build
WORKDIR /source
COPY . .
# Only the program itself is compiled with the flag: macros cannot be static.
RUN cargo rustc --release --locked --package daisy --bin daisy -- -C target-feature=+crt-static \
 && mkdir -p /image/etc && cp target/release/daisy /image/daisy \
 && printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' > /image/etc/passwd \
 && printf 'hosts: files dns\n' > /image/etc/nsswitch.conf

FROM scratch
COPY --from=build /image/ /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/daisy"]
