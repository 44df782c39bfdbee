# A compiled model behind HTTP, without PyTorch and without a compiler:
#
#   docker build --tag tbt-serve .
#   docker run --rm --read-only --publish 8000:8000 --volume "$PWD/compiled:/model:ro" tbt-serve
#
# Options of `tbt serve` follow the image's name.
FROM python:3.13-slim AS wheel
WORKDIR /src
COPY pyproject.toml MANIFEST.in README.md CHANGELOG.md LICENSE ./
COPY codegen codegen
COPY passes passes
COPY tbt_compile tbt_compile
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.13-slim
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt "$(echo /dist/*.whl)[serve]" \
    && useradd --system --uid 10001 tbt
USER 10001
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["tbt", "serve", "/model", "--host", "0.0.0.0"]
