# docker build -t css . && docker run --rm -p 127.0.0.1:3000:3000 -v css:/data css run --queue event_stream --bind :3000 --store /data/css.db --insecure
#
# Inside a container the service has to listen on every address of it, and then wants to know who may read:
# give it a file with [[auth.token]] (-v ./css.toml:/etc/css.toml:ro, run --config /etc/css.toml), or --insecure where
# only trusted clients reach the published port, as above. It needs no other writable place than /data (--read-only).

FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/css
COPY requirements.lock .
RUN /opt/css/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY css css
COPY tui tui
RUN /opt/css/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
    && /opt/css/bin/python -m compileall -q /opt/css

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin css && install -d -o css -g css /data
COPY --from=build /opt/css /opt/css
ENV PATH=/opt/css/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER css
WORKDIR /data
VOLUME /data
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD \
    ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:3000/healthz', timeout=3)"]
ENTRYPOINT ["css"]
CMD ["run", "--bind", ":3000", "--store", "/data/css.db"]
