# The control plane. Built of the lock file's versions, each checked by its hash; run as a number, not as root.
#   docker build -t certvoy .
#   docker run -v ./etc:/etc/certvoy:ro -v certvoy:/var/lib/certvoy --read-only -p 8080:8080 -p 8443:8443 certvoy
# The configuration is /etc/certvoy/certvoy.yaml, with `state_dir: /var/lib/certvoy` and, for the health check,
# `metrics: {listen: "127.0.0.1:8081"}`.

# Slim and not Alpine: grpcio and cryptography have no such wheels for every version there, glibc has them all.
FROM python:3.13-slim-bookworm AS build
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=/opt/certvoy
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE schema.sql ./
COPY migrations migrations
COPY acme_engine acme_engine
COPY sds_server sds_server
RUN uv sync --locked --no-dev --no-editable --quiet

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="certvoy" \
      org.opencontainers.image.description="Issues, rotates and delivers TLS certificates, and proves what is served" \
      org.opencontainers.image.licenses="Apache-2.0"
# pip has no business in a running control plane.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip \
    && install -d -m 0700 -o 10001 -g 10001 /var/lib/certvoy
COPY --from=build /opt/certvoy /opt/certvoy
# The last two have freed memory overwritten; without them it begins once more by itself, with them.
ENV PATH=/opt/certvoy/bin:$PATH PYTHONDONTWRITEBYTECODE=1 \
    PYTHONMALLOC=malloc GLIBC_TUNABLES=glibc.malloc.perturb=165:glibc.malloc.tcache_count=0
VOLUME /var/lib/certvoy
EXPOSE 8080 8443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8081/healthz', timeout=2)"]
ENTRYPOINT ["certvoy"]
CMD ["serve", "--config", "/etc/certvoy/certvoy.yaml"]
USER 10001:10001
